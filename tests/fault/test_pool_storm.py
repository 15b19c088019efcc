"""Many pools, opened and closed under load: what `make tsan` and `make asan` look at."""

import gc
import os

import pytest
from one_core import House
from pool_storm import Storm

SCALE = int(os.environ.get("KERNELQ_STORM", "1"))


@pytest.mark.parametrize(
    ("loops", "cache", "seed"), [(1, "off", 1), (1, "public", 2), (3, "off", 3), (3, "public", 4)]
)
def test_nothing_is_left_of_a_storm(loops, cache, seed):
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    with House(loops, cache=cache, health_path="/health") as house:
        house.core.start()
        storm = Storm(house, seed, operations=300 * SCALE, askers=10, requests=150 * SCALE)
        storm.run()
        stats = house.finish()
        seen = {status for asker in storm.askers for status in asker.seen}
    assert {200, 400, 503} <= seen
    assert stats["distrusted"] == 0
    assert storm.done["gone"] > 0
    del house, storm
    gc.collect()  # they name one another
    assert set(os.listdir("/proc/self/fd")) == before
