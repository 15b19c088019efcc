"""Deaths in a window of time: a bounded list of stamps and one question."""

from dataclasses import dataclass, replace

REMEMBERED_MAX = 1024  # stamps kept; the largest count that --rapid-fail accepts is below it


@dataclass(frozen=True, slots=True)
class Tally:
    """When deaths happened, the latest last; older than the window is forgotten."""

    window_ns: int
    stamps: tuple[int, ...] = ()

    def add(self, now: int) -> "Tally":
        """One more death, now."""
        kept = tuple(stamp for stamp in self.stamps if now - stamp < self.window_ns)
        return replace(self, stamps=(*kept, now)[-REMEMBERED_MAX:])

    def count(self, now: int) -> int:
        """How many deaths lie within the window."""
        return sum(now - stamp < self.window_ns for stamp in self.stamps)

    def cleared(self) -> "Tally":
        return replace(self, stamps=())
