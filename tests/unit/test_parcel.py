"""Data and descriptors over a link, whatever their number; and what is sealed."""

import os
import resource

import pytest

from kernelq import linux, sealed
from kernelq.config import PoolSettings
from kernelq.letters import pack_letter, unpack_letter
from kernelq.link import Link, link_pair
from kernelq.parcel import Receiver, send_parcel

KIND = 9


def receive(link: Link) -> tuple[bytes, list[int]]:
    receiver = Receiver()
    while True:
        message = link.receive()
        assert message is not None
        assert message.kind == KIND
        parcel = receiver.add(message)
        if parcel is not None:
            return parcel


@pytest.mark.parametrize("count", [0, 1, 199, 200, 201, 450])
def test_it_arrives_as_it_was_sent(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    ours, theirs = link_pair()
    data = os.urandom(100_000)
    descriptors = [os.memfd_create(f"{n}") for n in range(count)]
    try:
        send_parcel(ours, KIND, data, descriptors)
        received, copies = receive(theirs)
        assert received == data
        assert [os.fstat(fd).st_ino for fd in copies] == [os.fstat(fd).st_ino for fd in descriptors]
        for copy in copies:
            os.close(copy)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in descriptors:
            os.close(descriptor)
        ours.close()
        theirs.close()


def test_one_parcel_after_the_other() -> None:
    ours, theirs = link_pair()
    receiver = Receiver()
    for data in (b"", b"one", b"two"):
        send_parcel(ours, KIND, data)
        message = theirs.receive()
        assert message is not None
        assert receiver.add(message) == (data, [])
    ours.close()
    theirs.close()


def test_what_is_sealed_does_not_change() -> None:
    descriptor = sealed.put("test", b"text")
    with pytest.raises(PermissionError):
        os.pwrite(descriptor, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    assert sealed.take(descriptor) == b"text"


def test_what_is_too_large_or_no_file_is_refused_and_closed() -> None:
    descriptor = sealed.put("test", b"text")
    with pytest.raises(ValueError, match="more than"):
        sealed.take(descriptor, 3)
    reader, writer = os.pipe()
    with pytest.raises(ValueError, match="no file"):
        sealed.take(reader)
    os.close(writer)
    for closed in (descriptor, reader):
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(closed)


@pytest.mark.parametrize("insists", [True, False])
def test_a_kernel_that_insists_on_what_an_older_one_does_not_know(
    monkeypatch: pytest.MonkeyPatch, insists: bool
) -> None:
    real, noexec = os.memfd_create, 0x8

    def create(name: str, flags: int) -> int:
        if bool(flags & noexec) != insists:
            raise PermissionError(13, "Permission denied") if insists else OSError(22, "Invalid")
        return real(name, flags & ~noexec)

    monkeypatch.setattr(os, "memfd_create", create)
    linux.check_kernel()
    assert sealed.take(sealed.put("x", b"data")) == b"data"
    assert unpack_letter(pack_letter(PoolSettings(name="shop")))["name"] == "shop"
