"""RFC 9875: groups of stored responses. How rows are read: test_rfc9111.py."""

from typing import Any

import pytest
from origin import Row, Site, hit, posted, ran, reply, run, tables

OUT = "Cache-Group-Invalidation"
MANY = [f"{number:02}" + "x" * 30 for number in range(32)]  # 32 of 32 characters
LISTED = ", ".join(f'"{one}"' for one in MANY)


def member(*lines: str) -> dict[str, Any]:
    return reply("max-age=1000", *(f"Cache-Groups: {line}" for line in lines))


def ending(*lines: str, **more: Any) -> dict[str, Any]:
    return reply("no-store", *(f"{OUT}: {line}" for line in lines), **more)


def one(name: str, has: str, out: str, is_gone: bool) -> Row:
    """A stored response with these groups, and a POST elsewhere that invalidates those."""
    last = ran(3, path="/a") if is_gone else hit(1, path="/a")
    return Row(name, [member(has), ending(out), member(has)],
               [ran(1, path="/a"), posted(path="/b"), last])  # fmt: skip


ROWS = tables(
    one("3 a listed group goes", '"g"', '"g"', True),
    one("3 another group stays", '"g"', '"h"', False),
    one("2 the order does not matter", '"f", "g", "h"', '"x", "h", "y"', True),
    one("2.1 case counts", '"g"', '"G"', False),
    one("2.1 all characters count", '"g"', '"g "', False),
    one("2.1 a part is not the whole", '"group"', '"gro"', False),
    one("2.1 empty strings are strings", '""', '""', True),
    one("2.1 escapes are what they stand for", r'"a\"b\\c"', r'"a\"b\\c"', True),
    one("2 parameters do not count", '"g";a=1;b', '"g";c="d"', True),
    one("2 tokens are no members", "g", '"g"', False),
    one("3 tokens invalidate nothing", '"g"', "g", False),
    one("2 a list with something else is malformed", '"g", token', '"g"', False),
    one("3 likewise", '"g"', '"g", 5', False),
    one("3 a trailing comma is malformed", '"g"', '"g",', False),
    one("3 an open string is malformed", '"g"', '"g", "h', False),
    one("2 32 groups of 32 characters", LISTED, f'"{MANY[31]}"', True),
    one("3 32 groups of 32 characters", f'"{MANY[31]}"', LISTED, True),
    Row("2 several lines are one list", [member('"f"', '"g"'), ending('"g"'), member('"f"')],
        [ran(1, path="/a"), posted(path="/b"), ran(3, path="/a")]),
    Row("3 several lines are one list", [member('"g"'), ending('"f"', '"g"'), member('"g"')],
        [ran(1, path="/a"), posted(path="/b"), ran(3, path="/a")]),
    Row("3 all of a group, and nothing else",
        [member('"g"'), member('"g", "h"'), member('"h"'), reply("max-age=1000"), ending('"g"'),
         member('"new"')],
        [ran(1, path="/a"), ran(2, path="/b"), ran(3, path="/c"), ran(4, path="/d"),
         posted(path="/e"), ran(6, path="/a"), ran(7, path="/b"), hit(3, path="/c"),
         hit(4, path="/d")]),
    Row("2.2.1 it does not cascade",
        [member('"g", "h"'), member('"h"'), ending('"g"'), member('"g", "h"')],
        [ran(1, path="/a"), ran(2, path="/b"), posted(path="/c"), ran(4, path="/a"),
         hit(2, path="/b")]),
    Row("2.1 groups belong to an origin",
        [member('"g"'), ending('"g"')],
        [ran(1, path="/a", host="elsewhere"), posted(path="/b"),
         hit(1, path="/a", host="elsewhere")]),
    Row("2.1 the same origin by another spelling",
        [member('"g"'), ending('"g"'), member('"g"')],
        [ran(1, path="/a"), posted(path="/b", host="TEST:80"), ran(3, path="/a")]),
    Row("3 responses to safe methods invalidate nothing",
        [member('"g"'), ending('"g"')],
        [ran(1, path="/a"), ran(2, path="/b"), hit(1, path="/a"),
         posted(path="/b", method="OPTIONS"), hit(1, path="/a")]),
    Row("3 methods that nobody knows are unsafe", [member('"g"'), ending('"g"'), member('"g"')],
        [ran(1, path="/a"), posted(path="/b", method="FROBNICATE"), ran(3, path="/a")]),
    Row("2 what is stored anew is valid again", [member('"g"'), ending('"g"'), member('"g"')],
        [ran(1, path="/a"), posted(path="/b"), ran(3, path="/a"), hit(3, path="/a")]),
    Row("2 the fields are passed on", [member('"g"'), ending('"h"')],
        [ran(1, path="/a", fields={"Cache-Groups": '"g"'}),
         hit(1, path="/a", fields={"Cache-Groups": '"g"'}),
         posted(path="/b", fields={OUT: '"h"'})]),
    Row("2.1 variants are members of their own",
        [reply("max-age=1000", "Vary: Accept", 'Cache-Groups: "g"'),
         reply("max-age=1000", "Vary: Accept", 'Cache-Groups: "h"'), ending('"g"'),
         reply("max-age=1000", "Vary: Accept")],
        [ran(1, "Accept: x/a", path="/a"), ran(2, "Accept: x/b", path="/a"), posted(path="/b"),
         hit(2, "Accept: x/b", path="/a"), ran(4, "Accept: x/a", path="/a")]),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_rfc9875(rfc9111: Site, row: Row) -> None:
    run(rfc9111, row)
