"""Private temporary folders, where a worker cannot have a mount of its own (see launch.py).

A spawner has one folder, and in it one for each process that it makes, owned by the pool's user and
closed to others. A folder goes when the last process that uses it has gone: in a child, since a
deep tree takes long, and as the pool's user. What a spawner that was killed has left is removed by
the next one, and what is left at its own end by itself: as the server's user, which is safe because
rmtree() follows no link, not even one that takes a folder's place meanwhile.

Facts: a lock (flock) is held until the last copy of its descriptor is closed, and no longer than
its processes live: a folder whose lock is free belongs to nobody. It is a lock of the folder
itself, because systemd-tmpfiles, which removes what is old in /tmp, passes over a locked folder
with all that is in it, and looks for no other lock. In a sticky /tmp nobody else can rename or
remove our folder; one that another user made under our name is not ours and left alone.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile

from kernelq import log
from kernelq.identity import Identity
from kernelq.launch import in_child
from kernelq.linux import names_in

_PREFIX = "kernelq-tmp-"
_NEW_PREFIX = "kernelq-new-"  # not locked yet


class TmpFolders:
    """The temporary folders of one spawner's children. Single-threaded: it forks."""

    def __init__(self, base: str = "") -> None:
        # What TMPDIR of root's own session names may be out of the reach of others.
        self._base = base or ("/tmp" if os.geteuid() == 0 else tempfile.gettempdir())
        self._own = ""  # made with the first one
        self._lock = -1
        self._count = 0
        self._holders: dict[str, tuple[int, Identity]] = {}

    def make(self, identity: Identity) -> str:
        """A new folder, held once; OSError when there can be none."""
        if not self._has_own():
            self._make_own()
        self._count += 1
        path = os.path.join(self._own, str(self._count))
        os.mkdir(path, 0o700)
        if identity.uid >= 0:
            os.chown(path, identity.uid, identity.gid)
        self._holders[path] = (1, identity)
        return path

    def hold(self, path: str) -> None:
        """One more process uses it."""
        if path:
            count, identity = self._holders[path]
            self._holders[path] = (count + 1, identity)

    def release(self, path: str) -> None:
        """One process less; the last one's folder is removed."""
        if not path:
            return
        count, identity = self._holders.pop(path)
        if count > 1:
            self._holders[path] = (count - 1, identity)
        else:
            in_child(lambda: self._remove(path, identity))

    def sweep(self) -> None:
        """Remove what spawners that were killed have left."""
        if any(name.startswith(_PREFIX) for name in names_in(self._base)):
            in_child(self._sweep)

    def close(self) -> None:
        """Every process has gone: remove everything, and wait for that."""
        for path, (_, identity) in self._holders.items():
            _wait_for(in_child(lambda p=path, i=identity: self._remove(p, i)))  # type: ignore[misc]
        self._holders.clear()
        if self._own:
            shutil.rmtree(self._own, ignore_errors=True)
            os.close(self._lock)
            self._own, self._lock = "", -1

    def _has_own(self) -> bool:
        """False: there is none yet, or somebody has cleared /tmp, and it may be another's now."""
        try:
            return os.path.samestat(os.lstat(self._own), os.fstat(self._lock))
        except OSError:
            return False

    def _make_own(self) -> None:
        new = tempfile.mkdtemp(prefix=f"{_NEW_PREFIX}{os.geteuid()}-", dir=self._base)
        lock = -1
        try:
            # The users of all pools pass through; none may look.
            os.chmod(new, 0o711 if os.geteuid() == 0 else 0o700)
            lock = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            name = os.path.basename(new).removeprefix(_NEW_PREFIX)
            own = os.path.join(self._base, _PREFIX + name)
            os.rename(new, own)  # another one's sweep sees it locked, or not at all
        except OSError:
            os.rmdir(new)
            if lock >= 0:
                os.close(lock)
            raise
        if self._lock >= 0:
            os.close(self._lock)
        self._own, self._lock = own, lock

    def _remove(self, path: str, identity: Identity) -> None:
        # Its own user empties it; the folder itself stands in ours.
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                identity.assume()
                _empty(path)
            os._exit(0)
        _wait_for(pid)
        with contextlib.suppress(OSError):
            os.rmdir(path)

    def _sweep(self) -> None:
        for name in names_in(self._base):
            folder = os.path.join(self._base, name)
            if name.startswith(_PREFIX) and folder != self._own and _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
                if not os.path.lexists(folder):
                    log.info(f"removed {folder}, which a spawner that was killed had left")


def _empty(path: str) -> None:
    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)


def _is_abandoned(folder: str) -> bool:
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(folder, flags)
    except OSError:
        return False
    try:
        if os.fstat(lock).st_uid != os.geteuid():
            return False
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False  # its spawner lives
    finally:
        os.close(lock)
    return True


def _wait_for(pid: int) -> None:
    if pid:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
