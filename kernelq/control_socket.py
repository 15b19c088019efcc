"""Where the control socket of a server stands: made by the main process, found by the command line.

The socket file is made with mode 0600, or 0660 for a group whose members may look (a umask, so
there is no moment with another one), before anything listens on it, and given to the user that
serves and to that group. Default folders, by who starts the server:

    systemd     the unit's RuntimeDirectory ($RUNTIME_DIRECTORY), if it has one
    root        /run/kernelq, made 0755: the user of --user must be able to reach its socket
    others      $XDG_RUNTIME_DIR/kernelq, else /tmp/kernelq-UID, made 0700

Facts: in /tmp anybody may make a folder of that name first; a folder is used only if it is a real
one (no symbolic link), ours, and closed to others. Its owner cannot change behind our back: /tmp is
sticky.
"""

import errno
import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence

from kernelq import log
from kernelq.binding import Binding, Listener, explain, open_unix
from kernelq.errors import StartError
from kernelq.options import UNIX_PATH_MAX

ROOT_FOLDER = "/run/kernelq"
OWNER_ONLY = 0o177
OWNER_AND_GROUP = 0o117
NAME_BYTES_MAX = 60


def open_control(
    wanted: str,
    listeners: Sequence[Listener],
    owner: tuple[int, int] | None,
    readers: int | None = None,
) -> Listener | None:
    """The control socket, listening; None: not wanted, or its default place cannot be used.

    wanted: the value of --control; readers: the id of the group of control_readers. StartError when
    the path that it names cannot be used.
    """
    if wanted == "off":
        return None
    umask = OWNER_ONLY
    if readers is not None:
        umask = OWNER_AND_GROUP
        owner = (-1 if owner is None else owner[0], readers)
    if wanted != "auto":
        try:
            return open_unix(wanted, owner, umask)
        except OSError as found:
            reason = explain(Binding("unix", path=wanted), found)
            raise StartError(f"control socket: cannot listen on {wanted}: {reason}") from None
    folder, mode = default_folder(os.environ)
    if readers is not None and mode == 0o700:
        log.warning(
            f"control_readers: only its owner can reach {folder}; --control PATH puts the socket "
            "where the group can"
        )
    path = os.path.join(folder, socket_name(listeners))
    try:
        make_folder(folder, mode)
        return open_unix(path, owner, umask)
    except OSError as found:
        reason = explain(Binding("unix", path=path), found)
        log.warning(f"no control socket: {path}: {reason}; --control PATH puts it elsewhere")
        return None


def default_folder(environ: Mapping[str, str]) -> tuple[str, int]:
    """The folder that this process would use, and the mode to make it with."""
    unit = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if os.path.isabs(unit):
        return unit, 0o755
    if os.geteuid() == 0:
        return ROOT_FOLDER, 0o755
    return user_folder(environ), 0o700


def user_folder(environ: Mapping[str, str]) -> str:
    session = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(session) and os.path.isdir(session):
        return os.path.join(session, "kernelq")
    return f"/tmp/kernelq-{os.geteuid()}"


def make_folder(path: str, mode: int) -> None:
    """Make the folder if it is not there; OSError unless it is one that only we can change."""
    try:
        os.mkdir(path, mode)
        os.chmod(path, mode)  # whatever the umask is
    except FileExistsError:
        pass
    if not is_ours(path, ~mode & 0o077):
        raise PermissionError(errno.EPERM, f"{path} is not a folder of ours alone")


def is_ours(path: str, forbidden: int) -> bool:
    """Whether it is a folder, no symbolic link, of this user, without the forbidden mode bits."""
    found = os.lstat(path)
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return is_own and not stat.S_IMODE(found.st_mode) & (forbidden | 0o022)


def socket_name(listeners: Sequence[Listener]) -> str:
    """A file name made from the address of the first listening socket: 127.0.0.1-8000.sock."""
    if not listeners:
        return "kernelq.sock"
    where = re.sub(r"^http://|[\[\]]", "", listeners[0].url)
    name = re.sub(r"[^\w.:-]+|:(?=\d+$)", "-", where, flags=re.ASCII).strip("-.")
    if listeners[0].url.startswith("unix:"):
        name = "unix-" + name.removeprefix("unix:").strip("-.")
    return name[-NAME_BYTES_MAX:] + ".sock"


def find_sockets(environ: Mapping[str, str]) -> list[str]:
    """The control sockets of living servers that this user can reach, in the default folders."""
    return [path for path in _candidates(environ) if _answers(path)]


def _candidates(environ: Mapping[str, str]) -> Iterator[str]:
    # /run is root's: who stands in it needs no further proof.
    folders = [ROOT_FOLDER] if os.geteuid() == 0 else [ROOT_FOLDER, user_folder(environ)]
    for folder in folders:
        try:
            if folder != ROOT_FOLDER and not is_ours(folder, 0o077):
                continue
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        yield from (os.path.join(folder, name) for name in names if name.endswith(".sock"))


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        # EAGAIN: its backlog is full, so somebody listens.
        return len(os.fsencode(path)) <= UNIX_PATH_MAX and probe.connect_ex(path) in (
            0,
            errno.EAGAIN,
        )
