"""A request that asks for others' sake has no client, and is not lost for that."""

import socket

from hostile_channel import SKIPPED, record
from test_calls import Bench


def test_a_maker_that_its_worker_passes_over_is_queued_again():
    """Both have seen the other: the worker has started it, the core has taken it back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        bench = Bench(listener=listener)
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(30)
            client.sendall(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
            while not bench.raw.held:
                bench.raw.take(10)
            (request,) = bench.raw.held
            bench.raw.start(request)
            bench.core.worker_drain(bench.number)
            while not bench.raw.is_revoked(request):
                bench.raw.take(10)
            bench.raw.put(0, record(SKIPPED, request.place, request.dispatch))
            bench.raw.wait_read(0, 30_000)
            bench.core.set_pool_state(bench.pool, "offline")  # what is in the queue is refused
            assert client.recv(100).startswith(b"HTTP/1.1 503 ")
    bench.close()
