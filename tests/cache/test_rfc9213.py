"""RFC 9213: Kernelq-Cache-Control before CDN-Cache-Control before Cache-Control. How rows are read:
test_rfc9111.py.
"""

import pytest
from origin import Row, Site, current, hit, ran, renewed, reply, run, tables

OURS, CDN = "Kernelq-Cache-Control", "CDN-Cache-Control"
LONG = "max-age=1000"


def both(name: str) -> list[Row]:
    """What holds for either field."""
    return [
        Row(f"2.2 {name} wins: it allows", [reply("no-store", f"{name}: {LONG}")],
            [ran(1), hit(1)]),
        Row(f"2.2 {name} wins: it forbids", [reply(LONG, f"{name}: no-store")], [ran(1), ran(2)]),
        Row(f"2.2 {name} wins: shorter", [reply(LONG, f"{name}: max-age=10", "Age: 500")],
            [ran(1), ran(2)]),
        Row(f"2.2 {name} wins: longer", [reply("max-age=10", f"{name}: {LONG}", "Age: 500")],
            [ran(1), hit(1)]),
        Row(f"2.2 {name} wins over s-maxage", [reply("s-maxage=10", f"{name}: {LONG}", "Age: 500")],
            [ran(1), hit(1)]),
        Row(f"2.2 {name} wins over Expires",
            [reply("Expires: {now-1000}", f"{name}: {LONG}")], [ran(1), hit(1)]),
        Row(f"2.2 {name} without a lifetime: Expires does not count",
            [reply("Expires: {now+1000}", f"{name}: must-revalidate")], [ran(1), ran(2)]),
        Row(f"2.2 {name} without a lifetime: max-age does not count",
            [reply(LONG, f"{name}: none")], [ran(1), ran(2)]),
        Row(f"2.1 {name}: private", [reply(LONG, f"{name}: private, {LONG}")], [ran(1), ran(2)]),
        Row(f"2.1 {name}: no-cache", [current(LONG, f"{name}: no-cache, {LONG}", 'ETag: "a"')],
            [ran(1), renewed(1)]),
        Row(f"2.1 {name}: must-revalidate",
            [reply(LONG, f"{name}: {LONG}, must-revalidate", "Age: 2000")],
            [ran(1), ran(2, "Cache-Control: max-stale")]),
        Row(f"2.1 {name}: s-maxage", [reply(f"{name}: max-age=10, s-maxage=1000", "Age: 500")],
            [ran(1), hit(1)]),
        Row(f"2.1 {name}: no-cache with names",
            [reply(f'{name}: {LONG}, no-cache="X-Secret"', "X-Secret: 1")],
            [ran(1, fields={"X-Secret": "1"}), hit(1, fields={"X-Secret": None})]),
        Row(f"2.1 {name}: unknown members do not count",
            [reply("no-store", f'{name}: a=b, {LONG}, c="d, e", f=(1 2);g')], [ran(1), hit(1)]),
        Row(f"2.1 {name}: parameters do not count", [reply("no-store", f"{name}: {LONG};a=1;b")],
            [ran(1), hit(1)]),
        Row(f"2.1 {name}: false is not said",
            [reply("no-store", f"{name}: no-store=?0, {LONG}")], [ran(1), hit(1)]),
        Row(f"2.1 {name}: true is", [reply(f"{name}: no-store=?1, {LONG}")], [ran(1), ran(2)]),
        Row(f"8941-3.2 {name}: of equal keys the last counts",
            [reply("no-store", f"{name}: max-age=0, {LONG}")], [ran(1), hit(1)]),
        Row(f"8941-4.2 {name}: several lines are one dictionary",
            [reply("no-store", f"{name}: a", f"{name}: {LONG}")], [ran(1), hit(1)]),
        Row(f"2.1 {name}: a lifetime that is no integer is none",
            [reply(LONG, f'{name}: max-age="1000"')], [ran(1), ran(2)]),
        Row(f"2.1 {name}: a lifetime with a fraction is none",
            [reply(LONG, f"{name}: max-age=1000.5")], [ran(1), ran(2)]),
        Row(f"2.1 {name}: a negative lifetime", [reply(LONG, f"{name}: max-age=-1")],
            [ran(1), ran(2)]),
        *(
            Row(f"2.1 {name}: {value!r} is malformed and does not count",
                [reply(LONG, f"{name}: {value}")], [ran(1), hit(1)])
            for value in ("no-store,", "no-store, &", "No-Store", "no-store=", 'no-store, a="',
                          "no-store a", "no-store;", "=1, no-store", "no-store, a=(1", "")
        ),
        *(
            Row(f"2.1 {name}: {value!r} is malformed and allows nothing",
                [reply("no-store", f"{name}: {value}")], [ran(1), ran(2)])
            for value in (f"{LONG}, ", f"{LONG}, Public", "")
        ),
        Row(f"2.2 {name} of a request means nothing", [reply(LONG)],
            [ran(1), hit(1, f"{name}: no-cache, no-store")]),
    ]  # fmt: skip


SHOWN = tables(
    *both(OURS),
    *both(CDN),
    Row("2.2 ours before CDN's: it allows", [reply(f"{OURS}: {LONG}", f"{CDN}: no-store")],
        [ran(1), hit(1)]),
    Row("2.2 ours before CDN's: it forbids", [reply(f"{CDN}: {LONG}", f"{OURS}: no-store")],
        [ran(1), ran(2)]),
    Row("2.2 ours is malformed: CDN's counts",
        [reply("no-store", f"{OURS}: no-store,", f"{CDN}: {LONG}")], [ran(1), hit(1)]),
    Row("2.2 ours is empty: CDN's counts", [reply("no-store", f"{OURS}: ", f"{CDN}: {LONG}")],
        [ran(1), hit(1)]),
    Row("2.2 ours is not shown, the others are",
        [reply("max-age=5", f"{OURS}: {LONG}", f"{CDN}: {LONG}", "Age: 100")],
        [ran(1, fields={OURS: None, CDN: LONG, "Cache-Control": "max-age=5"}),
         hit(1, fields={OURS: None, CDN: LONG, "Cache-Control": "max-age=5"})]),
    Row("2.2 ours is not shown where nothing is stored",
        [reply(f"{OURS}: no-store")], [ran(1, fields={OURS: None}), ran(2, fields={OURS: None})]),
    Row("2.2 ours is not shown to HEAD", [reply(f"{OURS}: {LONG}")],
        [ran(1, method="HEAD", fields={OURS: None})]),
    Row("2.2 a malformed one of ours is not shown either", [reply(LONG, f"{OURS}: no-store,")],
        [ran(1, fields={OURS: None}), hit(1, fields={OURS: None})]),
    Row("2.2 fields for other caches are passed on, and mean nothing",
        [reply(LONG, "Other-Cache-Control: no-store", "Surrogate-Control: no-store")],
        [ran(1), hit(1, fields={"Other-Cache-Control": "no-store",
                                "Surrogate-Control": "no-store"})]),
    Row("9111-3.2 a 304 may bring a new one",
        [current(f"{OURS}: {LONG}", "Age: 2000", 'ETag: "a"',
                 fields_304=[[OURS, "max-age=3000"], ["ETag", '"a"'], ["Age", "2000"]])],
        [ran(1), renewed(1, fields={OURS: None}), hit(1, fields={OURS: None}, age=2000)]),
    Row("9111-3.5 it allows to store what was authorized",
        [reply(f"{OURS}: public, {LONG}")], [ran(1, "Authorization: Basic eDp5"), hit(1)]),
    Row("9111-3.5 but does not by itself",
        [reply(f"{OURS}: {LONG}")], [ran(1, "Authorization: Basic eDp5"), ran(2)]),
)  # fmt: skip


@pytest.mark.parametrize("row", SHOWN)
def test_rfc9213(rfc9111: Site, row: Row) -> None:
    run(rfc9111, row)


@pytest.mark.parametrize("name", [OURS, CDN])
def test_a_targeted_field_is_permission_enough(public: Site, name: str) -> None:
    run(public, Row(name, [reply(f"{name}: {LONG}")], [ran(1), hit(1)]))
    run(public, Row(name, [reply("public, max-age=9", f"{name}: private")], [ran(1), ran(2)]))
