"""The server's listening sockets by the names of their endpoints: opened by the main process, used
by the service.

The main process keeps names only. A socket that it held would take connections that nobody accepts
once the service has stopped.
"""

import json
import os
import socket
from collections.abc import Container, Iterable
from dataclasses import dataclass

from kernelq import log
from kernelq.binding import Binding, Listener, close_listeners, listener_of, open_bindings
from kernelq.errors import StartError
from kernelq.letters import FromService
from kernelq.link import Link
from kernelq.parcel import send_parcel

CONTROL = "control"  # the control socket's name among the endpoints'

Given = dict[str, list[Listener]]  # sockets that are there already, by endpoint


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One listening socket, and the binding for whose sake it was opened."""

    name: str
    listener: Listener


def open_endpoints(
    bindings: Iterable[Binding], given: Given, owner: tuple[int, int] | None, umask: int
) -> list[Endpoint]:
    """A socket, or several, for every binding: given ones, else new ones. What is used of `given`
    is taken out of it. All or none: StartError in one line, with nothing new left open.
    """
    opened: list[Listener] = []
    endpoints: list[Endpoint] = []
    for binding in bindings:
        name = str(binding)
        listeners = given.pop(name, None) or _take_same_address(binding, given)
        if not listeners:
            try:
                listeners = open_bindings([binding], owner, umask)
            except StartError:
                close_listeners(opened)
                raise
            opened += listeners
        endpoints += [Endpoint(name, listener) for listener in listeners]
    return endpoints


def refuse_new_descriptors(bindings: Iterable[Binding], known: Container[str]) -> None:
    """StartError for a descriptor that was not passed at the start: later its number names anything
    that this process has opened since.
    """
    for binding in bindings:
        if binding.kind == "fd" and str(binding) not in known:
            raise StartError(
                f"cannot listen on {binding}: descriptors are passed to a server at its start, and "
                "neither a reload nor an upgrade adds one"
            )


def _take_same_address(binding: Binding, given: Given) -> list[Listener]:
    # systemd's sockets have numbers, not names: what stands at the same address is meant.
    if binding.kind == "fd":
        return []
    for name, listeners in given.items():
        if name.startswith("fd://") and all(_stands_at(one, binding) for one in listeners):
            return given.pop(name)
    return []


def _stands_at(listener: Listener, binding: Binding) -> bool:
    sock = listener.socket
    if sock.family == socket.AF_UNIX:
        return binding.kind == "unix" and os.fsdecode(sock.getsockname()) == binding.path
    host, port = sock.getsockname()[:2]
    if binding.kind != "tcp" or port != binding.port:
        return False
    return host == binding.host or (binding.host == "*" and host in ("::", "0.0.0.0"))


def close_endpoints(endpoints: Iterable[Endpoint]) -> None:
    """Close them, and remove their socket files."""
    close_listeners([endpoint.listener for endpoint in endpoints])


def close_unused(given: Given) -> None:
    """What nobody asked for."""
    for name, listeners in given.items():
        urls = ", ".join(listener.url for listener in listeners)
        log.warning(f"no site is bound to the socket {name} ({urls}): it is closed")
        for listener in listeners:
            listener.socket.close()
    given.clear()


def listeners_from(names: Iterable[str], descriptors: Iterable[int]) -> Given:
    """Received sockets, by the names that came with them."""
    given: Given = {}
    for name, descriptor in zip(names, descriptors, strict=True):
        given.setdefault(name, []).append(listener_of(socket.socket(fileno=descriptor)))
    return given


def lend(link: Link, sockets: Iterable[tuple[str, int]], control: Listener | None) -> None:
    """Send copies of the listening sockets, and of the control socket, to the main process."""
    pairs = list(sockets)
    if control is not None:
        pairs.append((CONTROL, control.socket.fileno()))
    data = json.dumps([name for name, _ in pairs]).encode()
    try:
        send_parcel(link, FromService.LENT, data, [descriptor for _, descriptor in pairs])
    except OSError:
        pass  # the main process has ended, and this one is about to see it
