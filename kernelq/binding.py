"""Bindings: where the server listens. Parsing them, opening them, and leaving nothing behind.

A binding is HOST:PORT, [V6]:PORT, unix:PATH or fd://N; further sockets come from systemd
(LISTEN_FDS).

Facts: bind() never replaces a socket file, so one that a dead server left must be removed first,
and only after a connect() to it was refused: then nobody listens there. TCP_NODELAY and buffer
sizes of a listening socket are inherited by what it accepts.
"""

import errno
import os
import socket
import stat
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

from kernelq.errors import StartError
from kernelq.units import is_decimal

_ALLOWED = "HOST:PORT, [V6]:PORT, unix:PATH or fd://N"
_FIRST_PASSED_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
_DESCRIPTOR_MAX = 2**31 - 1  # C's int
_BACKLOG_FALLBACK = 4096


@dataclass(frozen=True, slots=True)
class Binding:
    """One place to listen: `kind` is tcp, unix or fd."""

    kind: str
    host: str = ""
    port: int = 0
    path: str = ""
    descriptor: int = -1
    bracketed: bool = False

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        if self.kind == "fd":
            return f"fd://{self.descriptor}"
        return f"[{self.host}]:{self.port}" if self.bracketed else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SiteBinding:
    """Where a site answers: an endpoint, and the host names asked for there (HTTP.sys UrlPrefix).

    host: "+" every host, before all others; a name; "*.name" any one label before a name; "" what
    no other binding wants.
    """

    endpoint: Binding
    host: str = ""

    def __str__(self) -> str:
        return f"{self.endpoint}:{self.host}"


@dataclass(frozen=True, slots=True)
class Listener:
    """An open listening socket, how to name it to the user, and the socket file to remove at the
    end.
    """

    socket: socket.socket
    url: str
    path: str = ""
    identity: tuple[int, int] = (0, 0)

    def remove_socket_file(self) -> None:
        """Remove the socket file, if it is still the one that was made here."""
        if not self.path:
            return
        try:
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self.identity:
                os.unlink(self.path)
        except OSError:
            pass  # gone already, or not ours to remove any more


def parse_binding(text: str) -> Binding:
    """ValueError says what is allowed."""
    if text.startswith("unix:"):
        return _parse_unix(text.removeprefix("unix:"))
    if text.startswith("fd://"):
        digits = text.removeprefix("fd://")
        if not is_decimal(digits) or int(digits) > _DESCRIPTOR_MAX:
            raise ValueError("fd://N with the number of an open descriptor")
        return Binding("fd", descriptor=int(digits))
    host, colon, port = text.rpartition(":")
    if not colon or not is_decimal(port) or int(port) > 65535:
        raise ValueError(f"{_ALLOWED}, with a port from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        return _parse_v6(host[1:-1], int(port))
    if ":" in host or "/" in host:
        raise ValueError(f"{_ALLOWED}; an IPv6 address stands in brackets")
    return Binding("tcp", host=host or "*", port=int(port))


def open_bindings(
    bindings: Sequence[Binding], owner: tuple[int, int] | None, umask: int
) -> list[Listener]:
    """Listen on every binding, or on none: StartError in one line, with nothing left open."""
    listeners: list[Listener] = []
    try:
        for binding in bindings:
            listeners += _open(binding, owner, umask)
    except StartError:
        close_listeners(listeners)
        raise
    return listeners


def close_listeners(listeners: Sequence[Listener]) -> None:
    """Close what open_bindings gave, and remove its socket files."""
    for listener in listeners:
        listener.socket.close()
        listener.remove_socket_file()


def take_passed_bindings(environment: MutableMapping[str, str]) -> list[Binding]:
    """The sockets that systemd has opened for this process; their variables are used up."""
    count = environment.pop("LISTEN_FDS", "")
    owner = environment.pop("LISTEN_PID", "")
    environment.pop("LISTEN_FDNAMES", None)
    if not count.isdigit() or owner != str(os.getpid()):
        return []
    return [Binding("fd", descriptor=_FIRST_PASSED_DESCRIPTOR + n) for n in range(int(count))]


def _parse_unix(path: str) -> Binding:
    if not path or "\0" in path or len(os.fsencode(path)) > 107:
        raise ValueError("unix:PATH with a path of 1 to 107 bytes")
    return Binding("unix", path=os.path.abspath(path))


def _parse_v6(host: str, port: int) -> Binding:
    address = host.partition("%")[0]
    try:
        socket.inet_pton(socket.AF_INET6, address)
    except OSError:
        raise ValueError("[V6]:PORT with an IPv6 address, such as [::1]:8000") from None
    return Binding("tcp", host=host, port=port, bracketed=True)


def _open(binding: Binding, owner: tuple[int, int] | None, umask: int) -> list[Listener]:
    try:
        if binding.kind == "unix":
            return [open_unix(binding.path, owner, umask)]
        if binding.kind == "fd":
            return [_open_passed(binding)]
        return _open_tcp(binding)
    except OSError as found:
        raise StartError(f"cannot listen on {binding}: {explain(binding, found)}") from None


def listener_of(sock: socket.socket) -> Listener:
    """A listening socket that somebody else has opened, with its file if it has one."""
    if sock.family != socket.AF_UNIX:
        return Listener(sock, _url(sock))
    path = os.fsdecode(sock.getsockname())
    try:
        found = os.lstat(path)
    except OSError:
        return Listener(sock, _url(sock))  # an abstract name, or a file that is gone
    return Listener(sock, _url(sock), path, (found.st_dev, found.st_ino))


def _open_tcp(binding: Binding) -> list[Listener]:
    if binding.host == "*":
        return [_open_everywhere(binding.port)]
    found = socket.getaddrinfo(
        binding.host, binding.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listeners: list[Listener] = []
    port = binding.port
    try:
        for family, address in dict.fromkeys((info[0], info[4]) for info in found):
            target = (address[0], port, *address[2:])
            listeners.append(_listen(family, target, v6_only=True))
            port = port or listeners[0].socket.getsockname()[1]
    except OSError:
        close_listeners(listeners)
        raise
    return listeners


def _open_everywhere(port: int) -> Listener:
    # One dual-stack socket; a machine without IPv6 gets the IPv4 one.
    try:
        return _listen(socket.AF_INET6, ("::", port), v6_only=False)
    except OSError as found:
        if found.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        return _listen(socket.AF_INET, ("0.0.0.0", port), v6_only=False)


def _listen(family: int, address: tuple[object, ...], v6_only: bool) -> Listener:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6_only)
        sock.bind(address)
        sock.listen(_backlog())
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return Listener(sock, _url(sock))


def open_unix(path: str, owner: tuple[int, int] | None, umask: int) -> Listener:
    """Listen on a unix socket, whose file is made under this umask and given to the owner; one that
    a dead server left is replaced. OSError.
    """
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(umask) if umask >= 0 else -1
    try:
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    finally:
        if previous >= 0:
            os.umask(previous)
    made = os.lstat(path)
    listener = Listener(sock, f"unix:{path}", path, (made.st_dev, made.st_ino))
    try:
        if owner is not None:
            os.chown(path, *owner, follow_symlinks=False)
        sock.listen(_backlog())
        sock.setblocking(False)
    except OSError:
        close_listeners([listener])
        raise
    return listener


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "there is a file of that name and it is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        refused = probe.connect_ex(path) == errno.ECONNREFUSED
    if not refused:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    os.unlink(path)


def _open_passed(binding: Binding) -> Listener:
    duplicate = os.dup(binding.descriptor)
    try:
        sock = socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise
    if sock.type != socket.SOCK_STREAM or not _is_listening(sock):
        sock.close()
        raise OSError(errno.EINVAL, "it is no listening stream socket")
    if binding.descriptor > 2:
        os.close(binding.descriptor)
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Listener(sock, _url(sock))


def _is_listening(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _url(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(name)}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


def _backlog() -> int:
    # listen() cuts a backlog to net.core.somaxconn anyway; asking for exactly that says what was
    # meant.
    try:
        with open("/proc/sys/net/core/somaxconn", encoding="ascii") as found:
            return int(found.read())
    except (OSError, ValueError):
        return _BACKLOG_FALLBACK


def explain(binding: Binding, found: OSError) -> str:
    """Why it cannot be listened on, in words."""
    if isinstance(found, socket.gaierror):
        return f"the name {binding.host!r} has no address ({found.strerror})"
    if found.errno == errno.EADDRINUSE:
        return f"the address is in use{_holder(binding)}"
    if found.errno == errno.EACCES and binding.kind == "tcp":
        return "no permission (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
    if found.errno in (errno.EACCES, errno.EPERM):
        return "no permission"
    if found.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    if found.errno == errno.EBADF:
        return "no such descriptor is open"
    return found.strerror or str(found)


def _holder(binding: Binding) -> str:
    """Who listens on a port already, as far as this user may know."""
    if binding.kind != "tcp":
        return " (a server answers there)"
    try:
        import psutil

        for connection in psutil.net_connections("tcp"):
            listening = connection.status == psutil.CONN_LISTEN
            port = connection.laddr[1] if connection.laddr else 0
            if listening and port == binding.port and connection.pid:
                name = psutil.Process(connection.pid).name()
                return f" (process {connection.pid}, {name}, listens there)"
    except Exception:
        return ""  # a nicety must not hide the error itself
    return ""
