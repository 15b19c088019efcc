"""Messages over a link: whole or not at all, and no descriptor is lost."""

import os
import socket

import pytest

from kernelq.link import DESCRIPTORS_MAX, TEXT_BYTES_MAX, Link, link_pair


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_numbers_text_and_descriptors_arrive() -> None:
    one, other = link_pair()
    reader, writer = os.pipe()
    one.send(7, 1, -2, 1 << 40, text="Grüße", descriptors=[writer])
    message = other.receive()
    assert message is not None
    assert (message.kind, message.numbers, message.text) == (7, (1, -2, 1 << 40), "Grüße")
    os.write(message.descriptors[0], b"x")
    assert os.read(reader, 1) == b"x"
    assert not os.get_inheritable(message.descriptors[0])
    message.close_descriptors()
    for descriptor in (reader, writer):
        os.close(descriptor)
    one.close()
    other.close()


def test_as_many_descriptors_as_a_worker_of_the_largest_core_needs() -> None:
    one, other = link_pair()
    wanted = 3 + 2 * 64 + 1
    assert wanted <= DESCRIPTORS_MAX
    one.send(1, descriptors=[0] * wanted)
    message = other.receive()
    assert message is not None
    assert len(message.descriptors) == wanted
    message.close_descriptors()
    one.close()
    other.close()


def test_end_of_the_other_side() -> None:
    one, other = link_pair()
    assert not other.is_ended()
    one.send(1)
    one.close()
    assert other.is_ended()
    assert other.receive() is not None
    assert other.receive() is None
    assert not other.try_send(1)
    with pytest.raises(BrokenPipeError):
        other.send(1)
    other.close()


def test_long_text_is_cut() -> None:
    one, other = link_pair()
    one.send(1, text="x" * (TEXT_BYTES_MAX + 10))
    message = other.receive()
    assert message is not None
    assert len(message.text) == TEXT_BYTES_MAX
    one.close()
    other.close()


@pytest.mark.parametrize("data", [b"\1", b"\1\3" + b"\0" * 8, b"\1\xff" + b"\0" * 2048])
def test_nonsense_raises_and_closes_what_came_with_it(data: bytes) -> None:
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = Link(receiver)
    before = open_descriptors()
    socket.send_fds(sender, [data], [0, 1])
    with pytest.raises(ValueError):
        link.receive()
    assert open_descriptors() == before
    sender.close()
    link.close()


def test_nothing_there_does_not_block_when_told_so() -> None:
    one, other = link_pair()
    other.set_blocking(False)
    assert not other.is_readable()
    with pytest.raises(BlockingIOError):
        other.receive()
    while one.try_send(1, text="x" * 1000):
        pass
    assert other.is_readable()
    one.close()
    other.close()
