"""Several loops, a few workers that come and go, dozens of clients, and a shutdown in the middle of
it: what `make tsan` and `make asan` look at. Every answer is judged all the same.
"""

import os

import pytest
from hostile_field import KEY
from hostile_load import Load

CLIENTS = 24
SCALE = int(os.environ.get("KERNELQ_STORM", "1"))


def check_end(end: dict[str, int]) -> None:
    for gauge in ("exchanges_now", "chunks_now", "connections_now", "queued"):
        assert end[gauge] == 0, gauge
    assert end["distrusted"] == 0


@pytest.mark.parametrize("loops", [1, 3])
def test_drained_workers_lose_nothing(field, loops):
    core = field(loops=loops)
    numbers = core.start_honest(2)
    load = Load(core.port, KEY.encode(), CLIENTS, seed=loops)
    load.start()
    for _ in range(4 * SCALE):
        numbers += core.start_honest(1)
        core.order(drain=numbers[0])
        assert core.wait("gone") == numbers.pop(0)
    load.stop()
    end = core.finish()
    assert not load.problems
    assert load.count("honest") == len(load.outcomes) > 0
    check_end(end)


def test_killed_workers_lose_only_what_they_had_started(field):
    core = field(loops=3, redispatch="always")
    numbers = core.start_honest(2)
    load = Load(core.port, KEY.encode(), CLIENTS, seed=3)
    load.start()
    for _ in range(6 * SCALE):
        numbers += core.start_honest(1)
        core.order(kill=numbers[0])
        assert core.wait("gone") == numbers.pop(0)
    load.stop()
    end = core.finish()
    assert not load.problems
    # What was answered in part when its worker was killed cannot be answered again.
    others = {outcome for outcome in load.outcomes.values() if outcome != "honest"}
    assert all(outcome.startswith("lost") for outcome in others), others
    assert load.count("honest") > len(load.outcomes) // 2
    check_end(end)


def test_a_shutdown_under_load_answers_all_that_it_took(field):
    core = field(loops=3)
    core.start_honest(2)
    load = Load(core.port, KEY.encode(), CLIENTS, seed=4, until_closed=True)
    load.start()
    load.wait_for(200 * SCALE)
    end = core.finish()
    load.stop()
    assert not load.problems
    assert load.count("honest") == len(load.outcomes) > 0
    check_end(end)
