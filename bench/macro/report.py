"""What the three programs share: common options, the head of a report, tables, the JSON record."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from bench.macro import proc
from bench.macro.peers import PEERS, TOOLS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def options_of(name: str, purpose: str, peers: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.macro.{name}",
        description=f"{purpose} bench/README.md says how, and what each figure means.",
    )
    parser.add_argument("--peers", default=",".join(peers), help="default: %(default)s")
    parser.add_argument("--python", default=sys.executable, help="the interpreter with kernelq")
    parser.add_argument("--json", metavar="FILE", help="everything measured, for later")
    return parser


def chosen(names: str, known: Iterable[str], what: str) -> list[str]:
    picked, known = names.split(","), list(known)
    if unknown := [name for name in picked if name not in known]:
        sys.exit(f"no such {what}: {', '.join(unknown)}; there are {', '.join(known)}")
    return picked


def opening(options: argparse.Namespace) -> tuple[list[str], dict[str, object]]:
    """Prints the machine and the versions; returns the peers that are installed, and the first
    part of the record."""
    if not TOOLS.is_dir():
        sys.exit("run bench/setup.sh first")
    print(proc.machine())
    versions = {}
    for name in chosen(options.peers, PEERS, "peer"):
        version = PEERS[name].installed(options.python)
        print(f"  {name:16} {version or 'not installed: left out'}")
        if version:
            versions[name] = version
    record: dict[str, object] = {
        "machine": proc.machine(),
        "options": vars(options),
        "versions": versions,
        "commands": {name: PEERS[name].command for name in versions},
    }
    return list(versions), record


def show_table(table: Sequence[Sequence[str]], left: int = 1) -> None:
    """Columns wide enough; the first `left` of them begin at the left."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def save(options: argparse.Namespace, record: dict[str, object]) -> None:
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
