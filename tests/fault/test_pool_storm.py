"""Many pools, opened and closed under load: what `make tsan` and `make asan` look at."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("pool_storm.py")
SCALE = os.environ.get("KERNELQ_STORM", "1")


@pytest.mark.parametrize(
    ("loops", "cache", "seed"), [(1, "off", 1), (1, "public", 2), (3, "off", 3), (3, "public", 4)]
)
def test_nothing_is_left_of_a_storm(loops, cache, seed):
    # In a process of its own: a crash is seen as such. (And ThreadSanitizer believes accesses
    # within libc to be unordered when the core is in pytest's own process.)
    words = [str(loops), cache, str(seed), SCALE]
    subprocess.run([sys.executable, SCRIPT, *words], check=True)
