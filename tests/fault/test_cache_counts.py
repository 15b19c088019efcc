"""Every request is counted once: as answered, refused, or left by its client."""

import socket
import struct

STORED = "/stored/4"  # 80 KB of content, far beyond what is copied behind its head
COUNT = 100  # far beyond what two sockets hold


def counted(stats: dict[str, int]) -> int:
    return stats["answered"] + stats["refused"] + stats["client_gone"]


def test_a_client_that_leaves_in_the_middle_of_a_hit(field):
    core = field(loops=1)
    core.start_honest(1)
    request = f"GET {STORED} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
    for _ in range(2):  # the first one stores it
        with socket.create_connection(("127.0.0.1", core.port)) as client:
            client.sendall(request * COUNT)
            client.recv(1000)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end = core.finish()
    assert end["requests"] == counted(end), end
    assert end["exchanges_now"] == 0
