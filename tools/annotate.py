"""Cython's page for each module, with its parts: python tools/annotate.py FOLDER

A yellow line calls Python; their count is printed for each part. In the core's parts but doors.pxi,
and in worker_lead.pxi and worker_link.pxi, there may be none.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIRECTIVES = "cdivision=True,boundscheck=False,wraparound=False,initializedcheck=False"


def annotate(module: str, folder: Path) -> list[Path]:
    """Make the pages of one module: of itself and of each file that it includes."""
    copy = folder / "kernelq"
    target = copy / f"{module}.c"
    command = [sys.executable, "-m", "cython", "-3", "--annotate", "-X", DIRECTIVES]
    subprocess.run([*command, f"kernelq/{module}.pyx", "-o", target], cwd=ROOT, check=True)
    return sorted({*copy.glob(f"{module}*.html"), *copy.glob("core/*.html")})


def yellow_lines(page: Path) -> int:
    return len(re.findall(r'class="cython line score-[1-9]', page.read_text()))


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "kernelq").mkdir(parents=True)
    pages = {page for module in ("_core", "_worker") for page in annotate(module, folder)}
    for page in sorted(pages):
        print(f"{yellow_lines(page):5} {page.relative_to(folder)}")


if __name__ == "__main__":
    main()
