"""Write the documents that are made from the code: python tools/pages.py

docs/layout.md from kernelq/core/layout.pxd, docs/reasons.md from the rows of
kernelq/core/reason.pxd, docs/options.md from the table in kernelq/options.py, docs/events.md from
kernelq/pool/events.py and the transitions in kernelq/pool/table.py; what stands below the mark in
docs/configuration.md, and the JSON Schema, from kernelq/configuration/table.py; commands and shapes
in docs/control.md from kernelq/protocol.py and kernelq/shapes.py (control_page.py).
tests/unit/test_docs.py compares.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from control_page import control_page

from kernelq import _core
from kernelq.configuration import table
from kernelq.configuration.example import schema_text
from kernelq.configuration.table import Key
from kernelq.options import OPTIONS
from kernelq.pool.events import DEBUG, ERROR, EVENTS, INFO, WARNING
from kernelq.pool.model import Kind, Phase, State
from kernelq.pool.table import FOLLOWS, TABLE, Row

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "kernelq" / "core" / "layout.pxd"
MADE = "Made by `python tools/pages.py` from {}; do not edit.\n"
MARK = "<!-- What stands below is made by `python tools/pages.py`; do not edit it. -->\n"
SIZES = {"uint8_t": 1, "uint16_t": 2, "uint32_t": 4, "uint64_t": 8, "int64_t": 8}


@dataclass
class Struct:
    """One struct of the header, as it is written there."""

    name: str = ""
    text: str = ""
    fields: list[tuple[str, str, int, str]] = field(default_factory=list)  # type, name, align, text

    def rows(self, sizes: dict[str, int]) -> Iterator[tuple[int, int, str, str]]:
        """(offset, bytes, name, text) of each field, by the rules of C."""
        at = 0
        for kind, name, wanted, text in self.fields:
            size = SIZES.get(kind) or sizes[kind.removeprefix("Kq")]
            align = wanted or min(size, 8)
            at = (at + align - 1) // align * align
            yield at, size, name, text
            at += size


def read_structs(text: str) -> list[Struct]:
    structs = []
    for found in re.finditer(r"typedef struct \{(.*?)\n    \} Kq(\w+);", text, re.S):
        struct = Struct(found[2])
        body = re.sub(r"\s*\n\s+(?=[^\n]*\*/)(?![^\n]*/\*)", " ", found[1])
        body = re.sub(r"(/\*[^*]*?)\n\s+", r"\1 ", body)
        opening, *lines = body.split("\n")
        struct.text = comment_of(opening)
        for line in lines:
            part = re.match(r"\s+(?:_Alignas\((\d+)\) )?(\w+) (\w+);", line)
            if part:
                struct.fields.append((part[2], part[3], int(part[1] or 0), comment_of(line)))
        structs.append(struct)
    return structs


def comment_of(line: str) -> str:
    found = re.search(r"/\*\s*(.*?)\s*\*/", line)
    return re.sub(r"\s+", " ", found[1]) if found else ""


def layout_page() -> str:
    """Every struct with its offsets, and the records that travel in the rings."""
    text = HEADER.read_text()
    made = _core.layout()
    page = ["# Layout of the shared memory\n", MADE.format("kernelq/core/layout.pxd")]
    theory = [line[2:] for line in text.split("\n\nfrom ")[0].split("\n")]
    page.append(f"Layout version {made['version']}. The header says:\n")
    page += ["```", *theory, "```\n"]
    page.append("## Structures\n")
    for struct in read_structs(text):
        size = made["sizes"][struct.name]
        page.append(f"### {struct.name}, {size} bytes\n")
        if struct.text:
            page.append(f"{struct.text[0].upper()}{struct.text[1:]}.\n")
        page += ["| offset | bytes | field | |", "| ---: | ---: | --- | --- |"]
        rows = list(struct.rows(made["sizes"]))
        assert rows[-1][0] + rows[-1][1] <= size, f"{struct.name} is not laid out as C does"
        page += [f"| {at} | {count} | {name} | {say} |" for at, count, name, say in rows]
        page.append("")
    page += ["## Records\n", "| number | record | from | |", "| ---: | --- | --- | --- |"]
    rows_of_records = re.findall(
        r'ROW\((\w+), (\d+), "(\w+)",(?: \\\\\n\s+)? ?"([^"]*)"\)', text, re.S
    )
    page += [f"| {number} | {name} | {who} | {say} |" for name, number, who, say in rows_of_records]
    page += ["", "## Places\n"]
    page.append(
        f"`revoked[]` and `started[]` stand at {made['places_at']}, the lane of loop 0 at "
        f"{made['lane_at'][0]}, each further lane {made['lane_at'][1] - made['lane_at'][0]} bytes "
        "behind the one before; the rings begin at the next page."
    )
    return "\n".join(page) + "\n"


def reasons_page() -> str:
    """The table of refusals."""
    page = [
        "# Reasons\n",
        MADE.format("kernelq/core/reason.pxd"),
        "Why a request was refused, cut or lost. The word stands in the error log (HTTPERR's word "
        "where HTTP.sys has one), the counter is `reason_` and the name in lower case, the text is "
        "the short answer. Status -: no status can be sent any more, or there is nothing to answer "
        "to.\n",
        "| name | status | word | text |",
        "| --- | ---: | --- | --- |",
    ]
    for name, status, word, text in _core.reasons_table():
        if name != "NONE":
            page.append(f"| {name} | {status or '-'} | {word} | {text} |")
    return "\n".join(page) + "\n"


def options_page() -> str:
    """The options by group, as `kernelq --help` has them."""
    page = ["# Options\n", MADE.format("kernelq/options.py")]
    page.append("    kernelq [serve] [MODULE:CALLABLE | MODULE:FACTORY()] [options]\n")
    page.append("Times are 30, 30s, 500ms, 2m, 1h; sizes are bytes or 64K, 1M, 1G.\n")
    for group in dict.fromkeys(option.group for option in OPTIONS):
        page += [f"## {group.capitalize()}\n", "| option | default | |", "| --- | --- | --- |"]
        for option in OPTIONS:
            if option.group == group:
                metavar = option.metavar.replace("|", "\\|")
                words = f"{option.name} {metavar}".strip()
                page.append(f"| `{words}` | {option.default} | {option.help} |")
        page.append("")
    return "\n".join(page)


INSIDE = (Kind.SERVES, Kind.SERVES_NO_MORE, Kind.UNSTARTABLE, Kind.EMPTY)
LEVELS = {DEBUG: "debug", INFO: "information", WARNING: "warning", ERROR: "error"}


def transitions(places: type[Phase] | type[State]) -> Iterator[tuple[list[str], list[str], Row]]:
    """(places, events, row), what is alike together."""
    by_row: dict[tuple[Row, str], list[str]] = {}
    for (place, kind), row in TABLE.items():
        if isinstance(place, places):
            by_row.setdefault((row, kind.name), []).append(place.name)
    by_places: dict[tuple[Row, tuple[str, ...]], list[str]] = {}
    for (row, kind_name), names in by_row.items():
        by_places.setdefault((row, tuple(names)), []).append(kind_name)
    for (row, among), kinds in by_places.items():
        yield list(among), kinds, row


def causes_of(number: int) -> str:
    """The transitions that may report an event."""
    found: dict[str, list[str]] = {}
    for (place, kind), row in TABLE.items():
        if number in row.reports:
            found.setdefault(kind.name, []).append(place.name)
    words = [f"{kind} in {', '.join(places)}" for kind, places in found.items()]
    if number in FOLLOWS:
        words.append("what follows")
    return "; ".join(words)


def transitions_table(places: type[Phase] | type[State]) -> Iterator[str]:
    yield "| in | event | to | then | may report |"
    yield "| --- | --- | --- | --- | --- |"
    for among, kinds, row in transitions(places):
        to = ", ".join(place.name for place in row.to) or "-"
        reports = ", ".join(str(number) for number in sorted(set(row.reports)))
        yield f"| {', '.join(among)} | {', '.join(kinds)} | {to} | {row.text} | {reports} |"


def events_page() -> str:
    """What happens to pools and workers, and the state machine that makes it happen."""
    page = ["# Events\n", MADE.format("kernelq/pool/events.py and kernelq/pool/table.py")]
    page.append(
        "What is said of pools and workers, in the log and by `kernelq events`. Ids below 6000 are "
        "those of WAS (IIS 7 and later), beside them those of IIS 6; from 6000 on they are "
        "kernelq's own. The words are kernelq's.\n"
    )
    page += [
        "| id | IIS 6 | level | name | text | reported at |",
        "| ---: " * 2 + "| --- " * 4 + "|",
    ]
    for row in EVENTS.values():
        level = LEVELS[row.level]
        about = f"{row.id} | {row.iis6 or '-'} | {level} | {row.name} | {row.text}"
        page.append(f"| {about} | {causes_of(row.id)} |")
    phases = ", ".join(f"{phase.value} {phase.name}" for phase in Phase)
    page.append("\n## The pool\n")
    page.append(f"Phases, with the numbers of IIS's counter: {phases}.\n")
    page.append(
        "A pair of phase and event that is not in the table changes nothing: it is about something "
        "that is over already, or has not begun. An empty `to` means that the phase stays; where "
        "one is named it may stay, too. "
        f"{', '.join(kind.name for kind in INSIDE)} come from the plan itself.\n"
    )
    page += transitions_table(Phase)
    page.append("\n## A worker\n")
    page.append(
        "TICK comes to a worker when the time limit of its state has passed. A loss counts for the "
        "back-off and for rapid-fail protection; of a candidate or of a replacement beside workers "
        "that go on, it is the end of the attempt and no more. ORPHANED is out of the pool.\n"
    )
    page += transitions_table(State)
    page.append("\n## What follows\n")
    page.append(
        "After every event, and from the state alone: workers that are missing are started, those "
        "that are too many leave, the next one that is due is replaced, the core is told what to "
        f"do with requests. Reports: {', '.join(str(number) for number in sorted(FOLLOWS))}."
    )
    return "\n".join(page) + "\n"


def configuration_page() -> str:
    """The head that people have written, and all keys below it."""
    head, mark, _ = (ROOT / "docs" / "configuration.md").read_text().partition(MARK)
    assert mark, "docs/configuration.md has lost its mark"
    page = [head + MARK, "| option | in the file |", "| --- | --- |"]
    for option in OPTIONS:
        keys = [f"`{key.name}` in `{where.heading}`" for where, key in
                table.key_of_option(option.name)]  # fmt: skip
        if keys:
            page.append(f"| `{option.name}` | {', '.join(keys)} |")
    page.append("")
    for section in table.SECTIONS:
        page += [f"## {section.heading}\n", f"{section.help}\n"]
        page += ["| key | default | | IIS |", "| --- | --- | --- | --- |"]
        page += [key_row(key) for key in section.keys]
        page.append("")
    return "\n".join(page)


def key_row(key: Key) -> str:
    default = f"`{key.default}`" if key.default else key.otherwise
    if key.is_required:
        default = "needed"
    text = key.help
    if key.example and not key.is_required:
        text += f". Such as `{key.example}`"
    cells = [f"`{key.name}`", default, text, key.iis]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


PAGES: dict[str, Callable[[], str]] = {
    "docs/layout.md": layout_page,
    "docs/reasons.md": reasons_page,
    "docs/options.md": options_page,
    "docs/control.md": control_page,
    "docs/events.md": events_page,
    "docs/configuration.md": configuration_page,
    "kernelq/kernelq.schema.json": schema_text,
}


def main() -> None:
    for name, make in PAGES.items():
        (ROOT / name).write_text(make())
        print(name)


if __name__ == "__main__":
    main()
