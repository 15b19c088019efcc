"""What a start has found out and opened, for the main process to run with."""

from collections.abc import Callable
from dataclasses import dataclass, field

from kernelq.binding import Listener
from kernelq.config import ServerSettings
from kernelq.endpoints import Endpoint, Given
from kernelq.identity import Identity
from kernelq.notify import Notifier


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
    environment: dict[str, str] = field(default_factory=dict)
