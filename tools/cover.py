"""Which lines of headers and parts a run has reached: python tools/cover.py OBJECTS

OBJECTS is where a build with CFLAGS=--coverage left its objects. gcov speaks of the lines of `.pxi`
and `.pxd` files, since the generated C names them. What was not reached: OBJECTS/missed.txt.
"""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any


def reports(objects: Path) -> list[dict[str, Any]]:
    """What gcov says about each object."""
    files = [str(path.resolve()) for path in objects.rglob("*.gcda")]
    command = ["gcov", "--json-format", "--stdout", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line]


def count_lines(objects: Path) -> dict[str, dict[int, int]]:
    """By source file: how often each line was run, in all modules together."""
    lines: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for report in reports(objects):
        for source in report["files"]:
            if source["file"].startswith("kernelq/") and source["file"].endswith((".pxi", ".pxd")):
                for line in source["lines"]:
                    lines[source["file"]][line["line_number"]] += line["count"]
    return lines


def main() -> None:
    objects = Path(sys.argv[1])
    missed = []
    for file, counts in sorted(count_lines(objects).items()):
        reached = sum(count > 0 for count in counts.values())
        print(f"{100 * reached // len(counts):4} % of {len(counts):5} {file}")
        missed += [f"{file}:{number}" for number in sorted(counts) if not counts[number]]
    (objects / "missed.txt").write_text("\n".join(missed) + "\n")


if __name__ == "__main__":
    main()
