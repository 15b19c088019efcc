"""Write the documents that are made from the code: python tools/pages.py

docs/layout.md from kernelq/core/layout.pxd, docs/reasons.md from the rows of
kernelq/core/reason.pxd, docs/options.md from the table in kernelq/options.py, commands and shapes
in docs/control.md from kernelq/protocol.py and kernelq/shapes.py (control_page.py).
tests/unit/test_docs.py compares.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from control_page import control_page

from kernelq import _core
from kernelq.options import OPTIONS

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "kernelq" / "core" / "layout.pxd"
MADE = "Made by `python tools/pages.py` from {}; do not edit.\n"
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


PAGES: dict[str, Callable[[], str]] = {
    "docs/layout.md": layout_page,
    "docs/reasons.md": reasons_page,
    "docs/options.md": options_page,
    "docs/control.md": control_page,
}


def main() -> None:
    for name, make in PAGES.items():
        (ROOT / name).write_text(make())
        print(name)


if __name__ == "__main__":
    main()
