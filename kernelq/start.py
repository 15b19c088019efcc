"""A start: what it has found out and opened, for the main process to run with."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kernelq.binding import Binding, Listener, open_bindings
from kernelq.config import ServerSettings
from kernelq.control_socket import open_control
from kernelq.endpoints import (
    Endpoint,
    Given,
    close_endpoints,
    open_endpoints,
    refuse_new_descriptors,
)
from kernelq.errors import StartError
from kernelq.identity import Identity, find_readers
from kernelq.notify import Notifier
from kernelq.sites import find_sockets
from kernelq.upgrade import Origin


@dataclass(slots=True)
class Start:
    """One start of a server."""

    settings: ServerSettings
    load: Callable[[], ServerSettings]  # reads the configuration again; StartError
    endpoints: list[Endpoint]
    control: Listener | None
    identity: Identity
    notifier: Notifier
    given: Given  # sockets that were passed and that nobody wants
    origin: Origin


def open_passed(passed: Iterable[Binding]) -> Given:
    """Sockets that systemd has opened for this process, by name. StartError when one of them is no
    listening socket.
    """
    return {str(binding): open_bindings([binding], None, -1) for binding in passed}


def passed_names(given: Given) -> list[Binding]:
    """Which of these are sockets that were passed by number."""
    numbers = [name.removeprefix("fd://") for name in given if name.startswith("fd://")]
    return [Binding("fd", descriptor=int(number)) for number in numbers]


def open_start(
    settings: ServerSettings,
    load: Callable[[], ServerSettings],
    identity: Identity,
    given: Given,
    origin: Origin,
) -> Start:
    """Open every socket while it is still allowed. StartError, with nothing new left open."""
    control = None if origin.predecessor is None else origin.predecessor.control
    wanted = find_sockets(settings.sites)
    if origin.predecessor is not None:
        refuse_new_descriptors(wanted, given)
    endpoints = open_endpoints(wanted, given, identity.owner, settings.umask)
    if control is None:
        try:
            listeners = [endpoint.listener for endpoint in endpoints]
            readers = find_readers(settings.control_readers)
            control = open_control(settings.control, listeners, identity.owner, readers)
        except StartError:
            close_endpoints(endpoints)
            raise
    return Start(
        settings,
        load,
        endpoints,
        control,
        identity,
        Notifier(os.environ),
        given,
        origin,
    )
