"""The cache's store between threads of C: loops, flushers, managers. Never a torn, foreign or
flushed answer, never more bytes than allowed, nothing left at the end. Under ThreadSanitizer
(`make tsan`) also: no race; and a reader that does not announce itself is one.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernelq._coretest import cache_storm, cache_stream

IS_JUDGED = "libtsan" in Path("/proc/self/maps").read_text()
SECONDS = 1.0 * float(os.environ.get("KERNELQ_STORM", "1"))
READER, KEYS, PREFIXES, GROUPS, MANAGER = range(5)
WRONG = ("torn", "stale", "foreign", "over", "left", "leaving")

STORMS = {
    "look-ups and flushes": (1 << 24, 4096, [READER] * 3 + [KEYS, PREFIXES, GROUPS, MANAGER]),
    "evictions": (1 << 19, 16384, [READER] * 4 + [KEYS, MANAGER]),
    "eviction of large and pinned ones": (1 << 20, 1 << 17, [READER] * 4 + [MANAGER]),
    "the same keys put by all": (1 << 24, 256, [READER] * 6 + [KEYS] * 2),
    "prefix flushes": (1 << 24, 256, [READER] * 3 + [PREFIXES] * 2),
    "group flushes": (1 << 24, 256, [READER] * 3 + [GROUPS] * 2),
}


@pytest.mark.parametrize("name", STORMS)
def test_storm(name: str) -> None:
    most, content, kinds = STORMS[name]
    counts = cache_storm(SECONDS, most, content, kinds, seed=os.getpid())
    assert {word: counts[word] for word in WRONG} == dict.fromkeys(WRONG, 0)
    assert counts["found"] > 10  # ThreadSanitizer is slow
    assert counts["filled"] > 10
    assert counts["epochs"] > 10
    if KEYS in kinds or PREFIXES in kinds or GROUPS in kinds:
        assert counts["changes"] > 10
    if "eviction" in name:
        assert counts["evicted"] > 100


@pytest.mark.parametrize("is_known", [True, False])
def test_content_is_read_while_it_is_filled(is_known: bool) -> None:
    for seed in range(20):
        assert cache_stream(1_000_000, is_known, seed=seed) == (0, 0)


@pytest.mark.skipif(not IS_JUDGED, reason="only ThreadSanitizer sees it")
def test_a_reader_outside_its_turn_is_reported() -> None:
    script = (
        "from kernelq._coretest import cache_storm; "
        "cache_storm(5, 1 << 20, 4096, [0, 0, 0, 1, 2], is_broken=True)"
    )
    judged = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert judged.returncode == 66
    assert "cache_" in judged.stderr
