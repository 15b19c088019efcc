"""A start: what it has found out and opened, for the main process to run with."""

import os
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace

from kernelq.binding import Binding, Listener, SiteBinding, open_bindings, take_passed_bindings
from kernelq.config import ServerSettings
from kernelq.control_socket import open_control
from kernelq.endpoints import Endpoint, Given, close_endpoints, open_endpoints
from kernelq.errors import StartError
from kernelq.identity import Identity, find_readers
from kernelq.notify import Notifier
from kernelq.sites import find_sockets


@dataclass(slots=True)
class Start:
    """One start of a server."""

    settings: ServerSettings
    load: Callable[[], ServerSettings]  # reads the configuration again; StartError
    endpoints: list[Endpoint]
    control: Listener | None
    identity: Identity
    notifier: Notifier
    given: Given = field(default_factory=dict)  # sockets that were passed and that nobody wants
    # How to start the same again, for an upgrade: before anything was changed.
    command: tuple[str, ...] = ()
    directory: str = "."
    environment: Mapping[str, str] = field(default_factory=dict)


def take_passed(environment: MutableMapping[str, str]) -> Given:
    """The sockets that systemd has opened for this process; their variables are used up. StartError
    when one is no listening socket.
    """
    given: Given = {}
    for binding in take_passed_bindings(environment):
        given[str(binding)] = open_bindings([binding], None, -1)
    return given


def with_passed(settings: ServerSettings, given: Given, has_binding: bool) -> ServerSettings:
    """A command line's only site is bound to every socket that was passed; and to those that it
    names, but not to the default.
    """
    names = [name for name in given if name.startswith("fd://")]
    if settings.config_file or not names:
        return settings
    passed = [Binding("fd", descriptor=int(name.removeprefix("fd://"))) for name in names]
    site = settings.sites[0]
    named = site.bindings if has_binding else ()
    bindings = (*(SiteBinding(binding) for binding in passed), *named)
    return replace(settings, sites=(replace(site, bindings=bindings),))


def open_start(
    settings: ServerSettings,
    load: Callable[[], ServerSettings],
    identity: Identity,
    given: Given,
    control: Listener | None,
    command: tuple[str, ...],
    environment: Mapping[str, str],
) -> Start:
    """Open every socket while it is still allowed. StartError, with nothing new left open.

    control: the control socket, if somebody else has opened it; environment: as the process was
    given it.
    """
    wanted = find_sockets(settings.sites)
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
        command,
        os.getcwd(),
        environment,
    )
