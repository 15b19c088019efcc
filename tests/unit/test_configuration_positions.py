"""Where keys stand: every form that TOML has, and texts of any mixture of them."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelq.configuration.errors import Path
from kernelq.configuration.positions import Positions

TEXT = '''\
# a comment [not.a] = table
top = 1
dotted.key = "x" # [x]
"quoted.key".'literal "key"'. bare = 'x'
"\\u0041\\t" = 1

[table] # comment
array = [
    1, # ]
    "two ] , #", 'three'
  , [
    4],
]
inline = { a = 1, b.c = { d = [ 5,
  6 ] }, "e" = "}" }
after = true

[table.inner]
long = """
[[not]]
not = "a key" \\\\
quote "" and \\""" and escaped """""
then = 1
literal = \'\'\'
'' \\ [x]
\'\'\'''
next = 1979-05-27T07:32:00Z

[[pool]]
name = "a"
[pool.recycling]
requests = 1
[[pool]]
name = "b"
recycling.requests = 2
[[ site . "application" ]]
path = "/"
[[site.application]]
path = "/b"
[site.application.x]
y = 1
'''

LINES: dict[Path, int] = {
    ("top",): 2,
    ("dotted",): 3,
    ("dotted", "key"): 3,
    ("quoted.key", 'literal "key"', "bare"): 4,
    ("A\t",): 5,
    ("table",): 7,
    ("table", "array"): 8,
    ("table", "array", 0): 9,
    ("table", "array", 1): 10,
    ("table", "array", 2): 10,
    ("table", "array", 3): 11,
    ("table", "array", 3, 0): 12,
    ("table", "inline"): 14,
    ("table", "inline", "b", "c", "d", 0): 14,
    ("table", "inline", "b", "c", "d", 1): 15,
    ("table", "inline", "e"): 15,
    ("table", "after"): 16,
    ("table", "inner"): 18,
    ("table", "inner", "long"): 19,
    ("table", "inner", "then"): 23,
    ("table", "inner", "literal"): 24,
    ("table", "inner", "next"): 27,
    ("pool",): 29,
    ("pool", 0): 29,
    ("pool", 0, "name"): 30,
    ("pool", 0, "recycling"): 31,
    ("pool", 0, "recycling", "requests"): 32,
    ("pool", 1): 33,
    ("pool", 1, "recycling", "requests"): 35,
    ("site", "application", 0): 36,
    ("site", "application", 1, "path"): 39,
    ("site", "application", 1, "x", "y"): 41,
}


def test_every_form() -> None:
    tomllib.loads(TEXT)
    positions = Positions(TEXT)
    assert {path: positions.line_of(path) for path in LINES} == LINES


def test_carriage_returns_are_no_lines() -> None:
    positions = Positions(TEXT.replace("\n", "\r\n"))
    assert {path: positions.line_of(path) for path in LINES} == LINES


@pytest.mark.parametrize(
    ("path", "line"),
    [(("table", "absent"), 7), (("pool", 0, "x", "y"), 29), (("absent",), 0), ((), 0)],
)
def test_what_is_not_there_is_where_it_would_be(path: Path, line: int) -> None:
    assert Positions(TEXT).line_of(path) == line


@pytest.mark.parametrize("text", ["", "\n", "# x", "a=1", "[a]", "[[a]]", "a = {}", "a = []"])
def test_small_texts(text: str) -> None:
    tomllib.loads(text)
    Positions(text)


def test_a_long_text_is_read_without_recursion() -> None:
    text = 'a = """\n' + 100_000 * 'x"\\"\n' + '"""\nb = 1\n'
    tomllib.loads(text)
    assert Positions(text).line_of(("b",)) == 100_003


def test_what_is_nested_deeply_is_passed_over() -> None:
    inside = '[ {{ a = "]", \'b\' = [ # ]\n {} ], c = """]\n""" }} ]'
    value = "1"
    for _ in range(60):
        value = inside.format(value)
    text = f"a = {value}\nb = 1\n"
    tomllib.loads(text)
    assert Positions(text).line_of(("b",)) == text.count("\n")


# Texts of any mixture: written from a tree of values by a writer that remembers lines.

KEYS = st.text(st.sampled_from("ab_-1.\"'# []{}=ä\\\n\t"), max_size=4)
SCALARS = st.one_of(
    st.integers(-5, 5), st.booleans(), st.text(st.sampled_from("ab\"'\\\n#]}=,[{ "), max_size=12)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)
TABLES = st.dictionaries(KEYS, VALUES, max_size=4)
DOCUMENTS = st.dictionaries(KEYS, st.one_of(VALUES, TABLES, st.lists(TABLES, min_size=1)))


class Writer:
    """Writes a document in forms that chance chooses, and remembers where it wrote what."""

    def __init__(self, choose: Any) -> None:
        self._choose = choose
        self.text = ""
        self.lines: dict[Path, int] = {}

    def document(self, document: dict[str, Any]) -> None:
        tables = {}
        for key, value in document.items():
            is_tables = isinstance(value, list) and value and all(
                isinstance(one, dict) for one in value
            )  # fmt: skip
            if (isinstance(value, dict) or is_tables) and self._choose(st.booleans()):
                tables[key] = value
            else:
                self.assignment((), key, value)
        for key, value in tables.items():
            if isinstance(value, dict):
                self.table((key,), f"[{self.key(key)}]", value)
            else:
                for number, one in enumerate(value):
                    self.table((key, number), f"[[ {self.key(key)}]]", one)

    def table(self, path: Path, heading: str, values: dict[str, Any]) -> None:
        self.blank()
        self.lines[path] = self.line
        self.text += heading
        self.end()
        for key, value in values.items():
            self.assignment(path, key, value)

    def assignment(self, path: Path, key: str, value: Any) -> None:
        self.blank()
        self.lines[(*path, key)] = self.line
        self.text += self.key(key)
        while isinstance(value, dict) and len(value) == 1 and self._choose(st.booleans()):
            path, (key, value) = (*path, key), next(iter(value.items()))
            self.lines[(*path, key)] = self.line
            self.text += f" . {self.key(key)}"
        self.text += " = "
        self.value((*path, key), value)
        self.end()

    def value(self, path: Path, value: Any) -> None:
        if isinstance(value, bool):
            self.text += "true" if value else "false"
        elif isinstance(value, str):
            self.text += self.string(value)
        elif isinstance(value, list):
            self.array(path, value)
        elif isinstance(value, dict):
            self.inline_table(path, value)
        else:
            self.text += str(value)

    def array(self, path: Path, values: list[Any]) -> None:
        self.text += "["
        for number, one in enumerate(values):
            self.text += self._choose(st.sampled_from(["", " ", "\n", " # ], x\n\t"]))
            self.lines[(*path, number)] = self.line
            self.value((*path, number), one)
            self.text += self._choose(st.sampled_from([",", "\n,", ' # "\n ,']))
        self.text += "]"

    def inline_table(self, path: Path, values: dict[str, Any]) -> None:
        self.text += "{ "
        for number, (key, value) in enumerate(values.items()):
            self.text += ", " if number else ""
            self.lines[(*path, key)] = self.line
            self.text += f"{self.key(key)} = "
            self.value((*path, key), value)
        self.text += " }"

    def key(self, key: str) -> str:
        import re

        if re.fullmatch(r"[A-Za-z0-9_-]+", key) and self._choose(st.booleans()):
            return key
        if key.isprintable() and "'" not in key and self._choose(st.booleans()):
            return f"'{key}'"
        return self.basic(key)

    def basic(self, text: str) -> str:
        for raw, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
            text = text.replace(raw, escaped)
        return f'"{text}"'

    def string(self, text: str) -> str:
        forms = ["basic", "long"]
        if "'" not in text:
            forms.append("long literal")
            forms += [] if "\n" in text else ["literal"]
        form = self._choose(st.sampled_from(forms))
        if form == "literal":
            return f"'{text}'"
        if form == "long literal":
            return f"'''\n{text}'''"
        if form == "long":
            return '"""\n' + text.replace("\\", "\\\\").replace('"""', '""\\"') + '"""'
        return self.basic(text)

    def blank(self) -> None:
        self.text += self._choose(st.sampled_from(["", "\n", " # [x]\n\n", "\t"]))

    def end(self) -> None:
        self.text += self._choose(st.sampled_from(["\n", ' # x = """\n', "\t\n\n"]))

    @property
    def line(self) -> int:
        return self.text.count("\n") + 1


@given(st.data(), DOCUMENTS)
def test_any_text(data: st.DataObject, document: dict[str, Any]) -> None:
    writer = Writer(data.draw)
    writer.document(document)
    assert tomllib.loads(writer.text) == document
    positions = Positions(writer.text)
    assert {path: positions.line_of(path) for path in writer.lines} == writer.lines
