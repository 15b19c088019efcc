"""RFC 8246: immutable. How rows are read: test_rfc9111.py."""

import pytest
from origin import Row, Site, current, hit, ran, renewed, reply, run, tables

FOREVER = "max-age=1000, immutable"
ROWS = tables(
    Row("2.1 a fresh one is not revalidated", [reply(FOREVER, 'ETag: "a"')],
        [ran(1), hit(1), hit(1, 'If-None-Match: "a"', status=304), hit(1, 'If-None-Match: "b"')]),
    Row("2.1 unless the client says so", [reply(FOREVER, 'ETag: "a"'), reply(FOREVER)],
        [ran(1), ran(2, "Cache-Control: no-cache"), hit(2)]),
    Row("2 a stale one is revalidated", [current(FOREVER, "Age: 2000", 'ETag: "a"')],
        [ran(1), renewed(1, saw={"If-None-Match": '"a"'})]),
    Row("2 it is no permission to be stale", [reply(FOREVER, "Age: 2000")], [ran(1), ran(2)]),
    Row("2 it is no permission to store", [reply("immutable, private, max-age=1000")],
        [ran(1), ran(2)]),
    Row("2 it is no lifetime", [reply("immutable")], [ran(1), ran(2)]),
    Row("2 an argument does not matter", [reply("max-age=1000, immutable=x")], [ran(1), hit(1)]),
    Row("2 no-store is stronger", [reply(FOREVER + ", no-store")], [ran(1), ran(2)]),
    Row("2 no-cache is stronger", [reply(FOREVER + ", no-cache")], [ran(1), ran(2)]),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_rfc8246(rfc9111: Site, row: Row) -> None:
    run(rfc9111, row)
