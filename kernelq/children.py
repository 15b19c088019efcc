"""The spawner's children, as it knows them: workers, and the zygotes that fork some of them."""

import os

from kernelq.link import Link


def next_dead() -> int | None:
    """The pid of a child that has ended; it stays its own until it is waited for."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


class Child:
    """A worker process, or one that is about to be: `pid` is 0 until it is forked.

    `report` is the descriptor of launch.start() until the process is what it shall be; -1 then, and
    for those that a zygote forks.
    """

    __slots__ = (
        "descriptors",
        "is_orphan",
        "link",
        "pid",
        "pool",
        "report",
        "tmp_folder",
        "zygote",
    )

    def __init__(self, pool: int, link: Link, descriptors: list[int]) -> None:
        self.pool = pool
        self.link = link
        self.descriptors = descriptors
        self.pid = 0
        self.report = -1
        self.is_orphan = False  # stopped, and left for a debugger
        self.tmp_folder = ""
        self.zygote: Zygote | None = None

    def close(self) -> None:
        self.link.close()
        self.close_descriptors()

    def close_descriptors(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.pop())


class Zygote:
    """A process that has loaded one generation of the application, and forks workers from it."""

    __slots__ = ("generation", "is_ended", "link", "pid", "pool", "refusal", "report", "tmp_folder")

    def __init__(self, pool: int, generation: int, pid: int, link: Link, report: int) -> None:
        self.pool = pool
        self.generation = generation
        self.pid = pid
        self.link = link
        self.report = report  # as a child's
        self.refusal = ""  # why it could not be made
        self.tmp_folder = ""
        self.is_ended = False  # we have killed it, and wait for its death
