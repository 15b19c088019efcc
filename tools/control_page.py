"""The part of docs/control.md that is made from the code: commands and shapes."""

import ast
import json
import re
from pathlib import Path

from kernelq import protocol, shapes
from kernelq.protocol import Argument, Row

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "control.md"
BEGIN = "<!-- made by `python tools/pages.py` from kernelq/protocol.py and kernelq/shapes.py -->\n"
END = "<!-- end of what is made -->\n"


def control_page() -> str:
    """The page, with its made part made anew."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{commands_part()}\n{shapes_part()}\n{END}{after}"


def commands_part() -> str:
    lines = ["| command | level | arguments | answer | |", "| --- | --- | --- | --- | --- |"]
    for row in protocol.ROWS:
        arguments = "<br>".join(map(argument_words, row.arguments)) or "–"
        answer = f"[{row.answer}](#{row.answer.lower()})"
        lines.append(f"| `{row.name}` | {row.level} | {arguments} | {answer} | {row.help} |")
    lines += ["", "One request of each:", ""]
    lines += [f"    {request_line(row)}" for row in protocol.ROWS]
    return "\n".join(lines) + "\n"


def argument_words(argument: Argument) -> str:
    kind = type(argument.example).__name__
    bounds = f", at most {argument.most}" if argument.most < 2**63 - 1 else ""
    default = ""
    if argument.default is not protocol.REQUIRED:
        default = f" [{json.dumps(argument.default)}]"
    return f"`{argument.name}` ({kind}{bounds}){default}: {argument.help}"


def request_line(row: Row) -> str:
    words = {argument.name: argument.example for argument in row.arguments}
    return json.dumps({"do": row.name, **words})


def shapes_part() -> str:
    """Each TypedDict: its fields with their types and comments."""
    source = Path(shapes.__file__).read_text()
    lines = source.split("\n")
    parts = []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        parts.append(f"### {node.name}\n\n{ast.get_docstring(node)}\n")
        fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
        if not fields:
            continue
        parts.append("| field | type | |\n| --- | --- | --- |")
        for one in fields:
            comment = re.search(r"#\s*(.*)", lines[one.lineno - 1])
            kind = ast.unparse(one.annotation).replace("|", "or")
            name = ast.unparse(one.target)
            parts.append(f"| `{name}` | {kind} | {comment[1] if comment else ''} |")
        parts.append("")
    return "\n".join(parts)
