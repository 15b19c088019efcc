"""Rings between threads of C. Under ThreadSanitizer (`make tsan`) a deliberate race must be seen:
a run that reports nothing would otherwise prove nothing.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from kernelq._coretest import stress_ring

RECORDS = 200_000
IS_JUDGED = "libtsan" in Path("/proc/self/maps").read_text()


def test_every_record_arrives_whole_and_in_order() -> None:
    bad, _ = stress_ring(RECORDS)
    assert bad == 0


@pytest.mark.skipif(not IS_JUDGED, reason="only ThreadSanitizer sees it")
def test_a_broken_ring_is_reported() -> None:
    script = "from kernelq._coretest import stress_ring; stress_ring(20_000, True)"
    judged = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert judged.returncode == 66
    assert "data race" in judged.stderr
    assert "stress.pxi" in judged.stderr
