"""When a new spawner is due after the last one has ended."""

import time

from kernelq.units import SECOND

STEP_NS = SECOND // 10
MOST_NS = 5 * SECOND
STEADY_NS = 60 * SECOND  # one that lived this long was no failure of the start
QUIET_NS = SECOND


class Restarts:
    """The clock of restarts: at once after the first death, later and later after those that follow
    soon.
    """

    def __init__(self) -> None:
        self._started_ns = time.monotonic_ns()
        self._deaths = 0
        self._due_ns = 0  # 0: none is due

    def on_start(self) -> None:
        self._started_ns = time.monotonic_ns()
        self._due_ns = 0

    def on_death(self) -> None:
        now = time.monotonic_ns()
        self._deaths = 1 if now - self._started_ns > STEADY_NS else self._deaths + 1
        self._due_ns = now + (STEP_NS << min(self._deaths - 1, 8) if self._deaths > 1 else 0)
        self._due_ns = min(self._due_ns, now + MOST_NS)

    def on_end(self) -> None:
        """It has ended without a fault, because its link to the service has. Mostly that is the end
        of everything; else a new one is needed.
        """
        self._due_ns = time.monotonic_ns() + QUIET_NS

    def on_failure(self) -> None:
        """There could be no process."""
        self._due_ns = time.monotonic_ns() + MOST_NS

    def is_due(self) -> bool:
        return self._due_ns != 0 and time.monotonic_ns() >= self._due_ns

    def seconds_to_wait(self) -> float | None:
        """None: for nothing."""
        if not self._due_ns:
            return None
        return max(0, self._due_ns - time.monotonic_ns()) / SECOND
