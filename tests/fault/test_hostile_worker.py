"""Workers that do whatever they can to the core: it answers every request that it did not hand to
one of them, never crashes, never hangs, and loses nothing.

The core runs in a process of its own, beside two honest workers; hostile ones follow one another
in a few seats. A request that was handed to a hostile worker may end in any way that HTTP allows;
every other one must be answered by an honest worker, byte for byte. What a hostile worker was
handed is read from the memory of its channel, not from what it says.
"""

import os

import pytest
from hostile_field import KEY, SEATS, Field
from hostile_load import PATIENCE, Load

TURN_NS_MAX = 50_000_000
TURN_NS_MAX_CROWDED = 1_000_000_000


def is_calm() -> bool:
    """Has this machine been ours? If not, a loop may have waited for whoever held a lock and got no
    processor: such a turn is long through no fault of the core's."""
    return os.getloadavg()[0] <= (os.cpu_count() or 1) + 1


def run_campaign(field: Field, lives: int, seed: int) -> tuple[Load, dict[str, int]]:
    """Hostile workers among honest ones, under load. Gives what the clients saw and the end."""
    field.start_honest(2)
    before = field.stats()
    load = Load(field.port, KEY.encode(), clients=8, seed=seed)
    load.start()
    field.order(lives=lives, seats=SEATS, seed=seed)
    field.wait("campaign", PATIENCE + lives)
    load.stop()
    after = field.stats()
    assert after["fds"] <= before["fds"] + 2, "descriptors were left behind"
    return load, field.finish()


def check_campaign(field: Field, load: Load, end: dict[str, int]) -> None:
    assert not load.problems
    assert field.count(1) == 0, field.notes()
    assert field.count(2) == 0, field.notes()
    wronged = {
        target: outcome
        for target, outcome in load.outcomes.items()
        if outcome != "honest" and target not in field.offered
    }
    assert not wronged
    assert load.count("honest") > 0
    for gauge in ("exchanges_now", "chunks_now", "connections_now", "queued"):
        assert end[gauge] == 0, gauge
    if end["has_precedence"]:
        limit = TURN_NS_MAX if is_calm() else TURN_NS_MAX_CROWDED
        assert end.get("turn_ns_max", 0) < limit


@pytest.mark.parametrize("loops", [1, 2])
def test_a_hostile_worker_harms_nobody_else(field, loops):
    core = field(loops=loops)
    load, end = run_campaign(core, lives=800, seed=loops * 1_000_000)
    check_campaign(core, load, end)
    assert core.count(0) > 100  # mutations


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_mutations(field):
    core = field(loops=2)
    load, end = run_campaign(core, lives=30_000, seed=7_000_000)
    check_campaign(core, load, end)
    assert core.count(0) >= 100_000
