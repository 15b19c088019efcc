"""Where the keys of a TOML text stand: tomllib tells what a file says, but not where.

The text has been read by tomllib already, so it is valid: nothing is checked here, and what
separates is found by the first character. Used only when an error, or `kernelq config show`, needs
lines: reading a large file for its values alone costs nothing here.
"""

import re

from kernelq.configuration.errors import Path

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"(?:[^"\\]|\\.)*"')
_LITERAL = re.compile(r"'[^']*'")
# Up to two quotes may stand right before the closing three.
_LONG_BASIC = re.compile(r'"""(?:[^"\\]++|\\.|"{1,2}(?!"))*"{3,5}', re.S)
_LONG_LITERAL = re.compile(r"'''(?:[^']|'{1,2}(?!'))*'{3,5}", re.S)
_SCALAR = re.compile(r"[^,\]}#\n]*")
_TOKEN = re.compile(
    "|".join((_LONG_BASIC.pattern, _LONG_LITERAL.pattern, _BASIC.pattern, _LITERAL.pattern))
    + r"|#[^\n]*|[\[\]{}]|[^\"'#\[\]{}]+",
    re.S,
)
_DEPTH_MAX = 40  # deeper than any key; a bound for the recursion
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.S)
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


class Positions:
    """Lines, from 1, of every key, table and element of a valid TOML text."""

    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._line = 1
        self._counted = 0  # up to here lines are counted
        self._lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}  # tables of each array of tables
        self._scan()

    def line_of(self, path: Path) -> int:
        """The line of what the path names, or of what it stands in; 0 for the file as a whole."""
        for length in range(len(path), 0, -1):
            line = self._lines.get(path[:length])
            if line:
                return line
        return 0

    def __contains__(self, path: Path) -> bool:
        return path in self._lines

    def _scan(self) -> None:
        table: Path = ()
        end = len(self._text)
        self._skip(_BLANK)
        while self._at < end:
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._assignment(table)
            self._skip(_BLANK)

    def _header(self) -> Path:
        line = self._count_lines()
        brackets = 2 if self._text.startswith("[[", self._at) else 1
        self._at += brackets
        keys = self._dotted_key()
        self._at += brackets
        path: Path = ()
        for key in keys[:-1]:
            path = self._last((*path, key))
            self._lines.setdefault(path, line)
        path = (*path, keys[-1])
        if brackets == 2:
            number = self._counts.get(path, 0)
            self._counts[path] = number + 1
            self._lines.setdefault(path, line)
            path = (*path, number)
        self._lines[path] = line
        return path

    def _last(self, path: Path) -> Path:
        count = self._counts.get(path)
        return (*path, count - 1) if count else path

    def _assignment(self, table: Path) -> None:
        line = self._count_lines()
        path = table
        keys = self._dotted_key()
        for key in keys:
            path = (*path, key)
            self._lines.setdefault(path, line)
        self._lines[path] = line
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _dotted_key(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            keys.append(self._key())
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _key(self) -> str:
        first = self._text[self._at]
        if first == '"':
            return _ESCAPE.sub(_unescape, self._take(_BASIC)[1:-1])
        if first == "'":
            return self._take(_LITERAL)[1:-1]
        return self._take(_BARE)

    def _value(self, path: Path) -> None:
        text, at = self._text, self._at
        if len(path) > _DEPTH_MAX and text[at] in "[{":
            self._skip_nested()
        elif text.startswith("[", at):
            self._array(path)
        elif text.startswith("{", at):
            self._inline_table(path)
        elif text.startswith('"""', at):
            self._skip(_LONG_BASIC)
        elif text.startswith("'''", at):
            self._skip(_LONG_LITERAL)
        elif text.startswith('"', at):
            self._skip(_BASIC)
        elif text.startswith("'", at):
            self._skip(_LITERAL)
        else:
            self._skip(_SCALAR)

    def _array(self, path: Path) -> None:
        self._at += 1
        number = 0
        while True:
            self._skip(_BLANK)
            if self._text.startswith("]", self._at):
                break
            element = (*path, number)
            self._lines[element] = self._count_lines()
            self._value(element)
            number += 1
            self._skip(_BLANK)
            if self._text.startswith(",", self._at):
                self._at += 1
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while True:
            self._skip(_BLANK)
            if self._text.startswith("}", self._at):
                break
            self._assignment(path)
            self._skip(_BLANK)
            if self._text.startswith(",", self._at):
                self._at += 1
        self._at += 1

    def _skip_nested(self) -> None:
        """Pass over brackets and what is in them: nobody asks for what lies so deep."""
        depth = 0
        while True:
            token = self._take(_TOKEN)
            depth += (token in "[{") - (token in "]}")
            if not depth:
                return

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._take(pattern)

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise AssertionError(f"tomllib has accepted what stands at {self._at}")
        self._at = found.end()
        return found[0]

    def _count_lines(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line


def _unescape(found: re.Match[str]) -> str:
    word = found[1]
    if word[0] in "uU" and len(word) > 1:
        return chr(int(word[1:], 16))
    return _ESCAPED.get(word, word)
