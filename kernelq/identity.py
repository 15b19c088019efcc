"""Users and groups: looked up before anything starts, changed to in one place."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from kernelq.errors import StartError
from kernelq.units import is_decimal

_ID_MAX = (1 << 32) - 2  # the one above means "none"


@dataclass(frozen=True, slots=True)
class Identity:
    """A user to become, with its groups; nothing to become when `uid` is -1."""

    uid: int = -1
    gid: int = -1
    groups: tuple[int, ...] = ()
    name: str = ""
    home: str = ""

    @property
    def owner(self) -> tuple[int, int] | None:
        """Who shall own socket files; None: whoever makes them."""
        return None if self.uid < 0 else (self.uid, self.gid)

    def assume(self) -> None:
        """Become this user for good: groups first, because a user may not change them any more."""
        if self.uid < 0:
            return
        os.setgroups(list(self.groups))
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)

    def login_environment(self) -> dict[str, str]:
        """What a login would have set; root's own home is of no use to another user."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name} if self.home else {}

    def set_environment(self) -> None:
        os.environ.update(self.login_environment())


NOBODY_ELSE = Identity()


def find_identity(user: str, group: str, groups: Sequence[str] | None = None) -> Identity:
    """StartError when there is no such user or group, or when we may not become it.

    groups: the supplementary ones; None: those that the user has.
    """
    if not user and not group and groups is None:
        return Identity()
    uid, gid, name, home = _find_user(user)
    if group:
        gid = _find_group(group)
    wanted = None if groups is None else tuple(sorted({_find_group(one) for one in groups} | {gid}))
    if os.geteuid() != 0:
        has_groups = wanted is None or set(wanted) == {*os.getgroups(), os.getegid()}
        if (uid, gid) == (os.geteuid(), os.getegid()) and has_groups:
            return Identity()
        raise StartError(
            f"no permission to become user {name!r}: only root may change user or group"
        )
    if wanted is None:
        is_known = user and id_in(name) is None
        wanted = tuple(os.getgrouplist(name, gid)) if is_known else (gid,)
    return Identity(uid, gid, wanted, name, home)


def id_in(name: str) -> int | None:
    """The id of a user or group that is given as a number; None: it is a name."""
    return int(name) if is_decimal(name) and int(name) <= _ID_MAX else None


def find_readers(group: str) -> int | None:
    """The id of the group whose members may look at the control socket; None: there is none.
    StartError when no group has that name.
    """
    return _find_group(group) if group else None


def require_interpreter(identity: Identity) -> None:
    """StartError when the user may not run this Python, or not read kernelq, as when both lie in
    /root.
    """
    if identity.uid < 0:
        return
    pid = os.fork()
    if pid == 0:
        identity.assume()
        for number, path in enumerate(_needed_paths()):
            if not os.access(path, os.R_OK):
                os._exit(number + 1)
        os._exit(0)
    number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if number:
        path = _needed_paths()[number - 1]
        raise StartError(f"no permission: user {identity.name!r} may not read {path}")


def _needed_paths() -> tuple[str, ...]:
    return sys.executable, os.__file__, __file__


def _find_user(user: str) -> tuple[int, int, str, str]:
    import pwd

    if not user:
        return os.geteuid(), os.getegid(), str(os.geteuid()), ""
    number = id_in(user)
    try:
        found = pwd.getpwnam(user) if number is None else pwd.getpwuid(number)
        return found.pw_uid, found.pw_gid, found.pw_name, found.pw_dir
    except KeyError:
        if number is not None:
            return number, number, user, ""
        raise StartError(f"--user: there is no user {user!r}") from None


def _find_group(group: str) -> int:
    import grp

    number = id_in(group)
    try:
        return grp.getgrnam(group).gr_gid if number is None else number
    except KeyError:
        raise StartError(f"--group: there is no group {group!r}") from None
