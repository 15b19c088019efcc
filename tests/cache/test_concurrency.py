"""Several loops, workers and clients, evictions, flushes, invalidations and updates at once. Every
response carries its URL and its version in each of its bytes: it must be whole, its own, and never
older than what had been flushed before the request was sent.
"""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from origin import Origin, Site, reply, serve
from wire import Client, Ended, Response

URLS, HOT = 40, 4
SIZES = (90, 700, 5_000, 30_000, 150_000)
READERS = 8


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("crowded")
    options = ("--workers", "2", "--threads", "4", "--loops", "3", "--cache", "rfc9111")
    with serve(folder, *options, "--cache-size", "1M", "--rapid-fail", "off") as server:
        yield Site(server, Origin(folder))


@dataclass
class Page:
    name: str
    group: str
    size: int
    is_chunked: bool
    delay: float  # what the application takes: so flushes come while entries are filled
    version: int = 0
    flushed: int = 0  # requests sent from now on get this version or a later one
    lock: threading.Lock = field(default_factory=threading.Lock)

    def content(self, version: int) -> bytes:
        text = f"/{self.name} version {version};".encode()
        return ((text + b" ") * (self.size // (len(text) + 1) + 1))[: self.size]

    def script(self, site: Site) -> None:
        unsafe = reply("no-store", f'Cache-Group-Invalidation: "{self.group}"', content="done")
        answer = reply(
            "max-age=1000",
            f'Cache-Groups: "all", "{self.group}"',
            f'ETag: "{self.version}"',
            content=f"/{self.name} version {self.version};",
            bytes=self.size,
            chunked=self.is_chunked,
            delay=self.delay,
            methods={"POST": unsafe},
        )
        site.origin.script(self.name, answer)

    def judge(self, response: Response, least: int) -> None:
        version = int(response.content.split(b";")[0].rpartition(b" ")[2])
        assert response.content == self.content(version), "torn or foreign"
        assert response.one("ETag") == f'"{version}"', "fields of another version"
        assert version >= least, f"stale: {version} after a flush of {least}"


def pages(site: Site) -> list[Page]:
    found = []
    for number in range(URLS):
        name = site.origin.new_name()
        size, delay = SIZES[number % len(SIZES)], (0.004, 0.001, 0.008, 0)[number % 4]
        page = Page(name, f"g{name}", size, number % 3 == 0, delay)
        page.script(site)
        found.append(page)
    return found


def together(jobs: list[Callable[[], None]]) -> None:
    """Run them in threads; the first failure is the test's."""
    failures: list[BaseException] = []

    def guarded(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def chosen(dice: random.Random, found: list[Page]) -> Page:
    """Some are asked for and changed all the time: their fills and flushes meet."""
    return dice.choice(found[:HOT] if dice.random() < 0.7 else found)


def reader(site: Site, found: list[Page], seed: int, count: int, may_fail: bool) -> None:
    dice = random.Random(seed)
    with ExitStack() as stack:
        client = stack.enter_context(Client(site.server.address()))
        for _ in range(count):
            if not read(client, dice, found, may_fail):
                client.close()
                client = stack.enter_context(Client(site.server.address()))


def read(client: Client, dice: random.Random, found: list[Page], may_fail: bool) -> bool:
    """One request; whether the connection may be used again."""
    page = chosen(dice, found)
    lines = dice.choice([(), (), (), ("Cache-Control: no-cache",), ("Range: bytes=0-9999999",)])
    least = page.flushed
    try:
        response = client.ask(f"/{page.name}", *lines)
    except Ended:
        assert may_fail
        return False
    if response.status in (502, 503):
        assert may_fail, response
    else:
        assert response.status in (200, 206), response
        page.judge(response, least)
    return not response.is_last


def change(site: Site, page: Page, how: str) -> bool:
    """A new version, and the old one out of the store; whether that was confirmed."""
    with page.lock:
        page.version += 1
        version = page.version
        page.script(site)
        flushes = {
            "flush": f"/-/flush?prefix=http://test/{page.name}",
            "all": "/-/flush?prefix=http://test/",
            "group": f"/-/flush_group?name={page.group}&origin=http://test",
            "post": f"/{page.name}",
        }
        response = site.server.ask(flushes[how], method="POST", content=b"")
        if response.status != 200:
            return False
        page.flushed = max(page.flushed, version)
        return True


def writer(site: Site, found: list[Page], seed: int, count: int, may_fail: bool) -> None:
    dice = random.Random(seed)
    for _ in range(count):
        how = dice.choice(["flush"] * 5 + ["group"] * 5 + ["post"] * 5 + ["all"])
        assert change(site, chosen(dice, found), how) or may_fail


def killer(site: Site, readers_left: Callable[[], bool]) -> None:
    while readers_left():
        workers = site.server.pids("worker")
        if len(workers) == 2:
            os.kill(workers[0], signal.SIGKILL)


@pytest.mark.parametrize("rounds", [150, pytest.param(5000, marks=pytest.mark.slow)])
def test_nothing_is_torn_foreign_or_stale(crowded: Site, rounds: int) -> None:
    found = pages(crowded)
    jobs: list[Callable[[], None]] = [
        *(bound(reader, crowded, found, seed, rounds, False) for seed in range(READERS)),
        *(bound(writer, crowded, found, seed, rounds // 3, False) for seed in (100, 101)),
    ]
    together(jobs)


def bound(job: Callable[..., None], *arguments: Any) -> Callable[[], None]:
    return lambda: job(*arguments)


def test_not_even_while_workers_die(tmp_path: Path) -> None:
    options = ("--workers", "2", "--threads", "4", "--loops", "3", "--cache", "rfc9111")
    with serve(tmp_path, *options, "--cache-size", "1M", "--rapid-fail", "off") as server:
        site = Site(server, Origin(tmp_path))
        found = pages(site)
        ended = threading.Event()

        def work() -> None:
            try:
                together([
                    *(bound(reader, site, found, seed, 100, True) for seed in range(READERS)),
                    bound(writer, site, found, 100, 30, True),
                ])  # fmt: skip
            finally:
                ended.set()

        together([work, bound(killer, site, lambda: not ended.wait(0.05))])


@pytest.mark.parametrize("chunked", [False, True])
def test_each_page_is_made_once(tmp_path: Path, chunked: bool) -> None:
    """All clients ask for the same pages in the same order, over several loops: whoever comes while
    a page is made, or just as it is stored, gets it.
    """
    options = ("--workers", "1", "--threads", "8", "--loops", "3", "--cache", "rfc9111")
    with serve(tmp_path, *options) as server:
        site = Site(server, Origin(tmp_path))
        names = [site.origin.new_name() for _ in range(200)]
        for name in names:
            site.origin.script(name, reply("max-age=1000", chunked=chunked, delay=0.001))

        def ask() -> None:
            with Client(server.address()) as client:
                for name in names:
                    response = client.ask(f"/{name}")
                    assert response.text == f"/{name} v1"
                    assert int(response.one("Age") or 0) < 900

        together([ask] * READERS)
        assert {site.origin.count(name) for name in names} == {1}


def test_many_keys_in_a_small_store(crowded: Site) -> None:
    """Far more than fits: what is answered is right, whether it was kept or not."""
    name = crowded.origin.new_name()
    crowded.origin.script(name, reply("max-age=1000", bytes=2000))

    def ask(seed: int) -> None:
        dice = random.Random(seed)
        with Client(crowded.server.address()) as client:
            for _ in range(300):
                number = dice.randrange(1500)
                content = client.ask(f"/{name}/{number}?{number}").content
                assert content.startswith(f"/{name}/{number}?{number} v".encode())
                assert len(content) == 2000

    together([bound(ask, seed) for seed in range(READERS)])


def test_an_entry_that_is_being_sent_outlives_its_flush(crowded: Site) -> None:
    name = crowded.origin.new_name()
    crowded.origin.script(name, reply("max-age=1000", bytes=200_000))
    first = crowded.server.ask(f"/{name}").content
    slow = [crowded.server.connect(receive_bytes=4096).get(f"/{name}") for _ in range(6)]
    for client in slow:
        client.head()
    crowded.flush(f"http://test/{name}")
    fill = crowded.origin.new_name()
    crowded.origin.script(fill, reply("max-age=1000", bytes=100_000))
    for number in range(30):  # the memory that it had is wanted by others
        crowded.server.ask(f"/{fill}/{number}")
    assert [client.rest(200_000) for client in slow] == [first] * 6
    crowded.server.close_clients()
    assert crowded.server.ask(f"/{name}").content != first
