"""What keeps its number over a reload, and what gets a new one."""

from dataclasses import replace

import pytest

from kernelq.config import (
    ApplicationSettings,
    CorePoolSettings,
    PoolSettings,
    ServerSettings,
    SiteSettings,
)
from kernelq.numbering import Numbers, what_waits

SHOP = ApplicationSettings(path="/", app="shop:app", pool="shop")
NEWS = ApplicationSettings(path="/news", app="news:app", pool="news")


def settings(
    applications: tuple[ApplicationSettings, ...] = (SHOP, NEWS), **shop: object
) -> ServerSettings:
    pools = (replace(PoolSettings(name="shop"), **shop), PoolSettings(name="news"))
    return ServerSettings(pools=pools, sites=(SiteSettings("www", (), applications),))


@pytest.fixture
def numbers() -> Numbers:
    return Numbers()


def test_everything_has_a_number_of_its_own(numbers: Numbers) -> None:
    made = numbers.number(settings())
    applications = made.sites[0].applications
    assert len({one.number for one in applications}) == 2
    assert {one.site for one in applications} == {"www"}
    assert len({pool.index for pool in made.pools}) == 2
    assert made.pools[0].applications == (applications[0],)
    assert made.pools[1].applications == (applications[1],)


def test_what_has_not_changed_keeps_its_number(numbers: Numbers) -> None:
    before = numbers.number(settings())
    numbers.keep(before)
    assert numbers.number(settings()) == before


@pytest.mark.parametrize(
    ("change", "is_new"),
    [
        ({"max_processes": 2}, True),  # wsgi.multiprocess
        ({"directory": "/srv"}, True),
        ({"core": CorePoolSettings(threads=9)}, True),
        ({"preload": True}, True),
        ({"core": CorePoolSettings(queue_length=9)}, False),
        ({"idle_timeout_ns": 9}, False),
        ({"startup_limit_ns": 9}, False),
    ],
)
def test_a_pool_gets_a_new_index_if_its_workers_must_be_others(
    numbers: Numbers, change: dict[str, object], is_new: bool
) -> None:
    before = numbers.number(settings())
    numbers.keep(before)
    after = numbers.number(settings(**change))
    assert (after.pools[0].index != before.pools[0].index) == is_new
    assert after.pools[0] != before.pools[0]
    assert after.pools[1] == before.pools[1]


def test_a_changed_application_is_another_one_and_its_pool_knows_both(numbers: Numbers) -> None:
    before = numbers.number(settings())
    numbers.keep(before)
    changed = replace(SHOP, app="shop:other")
    after = numbers.number(settings((changed, NEWS)))
    old, new = before.sites[0].applications, after.sites[0].applications
    assert new[0].number not in {one.number for one in old}
    assert new[1] == old[1]
    assert after.pools[0].index not in {pool.index for pool in before.pools}
    assert after.pools[0].retired == (old[0],)
    assert after.pools[1] == before.pools[1]


def test_numbers_are_never_used_again(numbers: Numbers) -> None:
    seen: set[int] = set()
    for turn in range(5):
        made = numbers.number(settings((replace(SHOP, app=f"shop:app{turn}"), NEWS)))
        numbers.keep(made)
        number = made.sites[0].applications[0].number
        assert number not in seen
        seen.add(number)


def test_a_reading_that_was_refused_leaves_no_trace_but_used_numbers(numbers: Numbers) -> None:
    before = numbers.number(settings())
    numbers.keep(before)
    refused = numbers.number(settings(directory="/nowhere"))
    after = numbers.number(settings())
    assert after == before
    again = numbers.number(settings(directory="/nowhere"))
    assert again.pools[0].index != refused.pools[0].index


def test_an_application_that_moves_to_another_pool(numbers: Numbers) -> None:
    before = numbers.number(settings())
    numbers.keep(before)
    after = numbers.number(settings((SHOP, replace(NEWS, pool="shop"))))
    assert [one.path for one in after.pools[0].applications] == ["/", "/news"]
    assert after.pools[1].applications == ()
    assert after.pools[1].retired == before.pools[1].applications


def test_what_waits_for_the_next_start() -> None:
    before = ServerSettings()
    assert what_waits(before, before) == []
    assert what_waits(before, replace(before, graceful_timeout_ns=1)) == []
    after = replace(
        before, user="www", core=replace(before.core, idle_timeout_ns=1, access_log_fd=7)
    )
    assert what_waits(before, after) == [
        "[server] user is changed by the next start or by `kernelq upgrade` only",
        "[limits] idle_timeout is changed by the next start or by `kernelq upgrade` only",
    ]


def test_what_a_reload_brings_is_tried_before_the_worker_is_ready(numbers: Numbers) -> None:
    both = (replace(SHOP, pool="shop"), replace(NEWS, pool="shop"))
    before = numbers.number(settings(both))
    numbers.keep(before)
    assert before.pools[0].fresh == ()
    after = numbers.number(settings((both[0], replace(both[1], app="news:other"))))
    assert after.pools[0].fresh == (after.sites[0].applications[1].number,)
    numbers.keep(after)
    assert numbers.number(settings((both[0], replace(both[1], app="news:other")))) == after
