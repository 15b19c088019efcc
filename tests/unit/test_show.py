"""What commands show: lines that fit, whatever the server says."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from fake_managers import (
    PATIENCE,
    FakeManagers,
    Served,
    make_event,
    make_pool,
    make_request,
    make_worker,
)

from kernelq.__main__ import main
from kernelq.columns import (
    Column,
    cut,
    pad,
    say_count,
    say_kib,
    say_ms,
    say_rate,
    table,
    width,
)
from kernelq.shapes import Pool, Request
from kernelq.show import Paint, event_line, pool_table, request_table, status_lines, worker_table
from kernelq.top import Sample, frame

ROOT = Path(__file__).resolve().parents[2]
PLAIN = Paint()
NAMES = (
    "shop",
    "日本語のプール",
    "a-very-long-name-of-a-pool-for-some-department",
    "e\u0301te\u0301",
)


def many_pools(count: int, workers: int = 2) -> list[Pool]:
    return [
        make_pool(
            f"{NAMES[n % 4]}{n}",
            state="DISABLED" if n % 3 == 1 else "SHUTDOWN_PENDING",
            last_event=make_event() if n % 2 else None,
            workers=[
                make_worker(n * 100 + at, unhealthy=at == 1, rss_kib=-1, latency_us=-1)
                for at in range(workers)
            ],
        )
        for n in range(count)
    ]


def many_requests(count: int) -> list[Request]:
    return [
        make_request(
            pool=NAMES[0] + "0",
            worker=n % 3 - 1,
            elapsed_ms=n,
            target="/日" * 50 + "x" * n,
            state="queued" if n % 3 == 0 else "executing",
        )
        for n in range(count)
    ]


def sample(pools: list[Pool], requests: list[Request], at: float = 0.0) -> Sample:
    return Sample(at, FakeManagers().status(), pools, requests)


@pytest.mark.parametrize("room", [40, 80, 200])
def test_tables_fit(room: int) -> None:
    now = sample(many_pools(8), many_requests(30))
    for lines in (
        status_lines(now.status, now.pools, room, PLAIN),
        pool_table(now.pools, room, PLAIN),
        worker_table(now.pools, room, PLAIN),
        request_table(now.requests, room, PLAIN),
        [event_line(make_event(text="日本" * 200), room, PLAIN)],
    ):
        assert max(map(width, lines)) <= room
        assert all(line == line.rstrip() for line in lines)


def test_columns_stand_below_one_another() -> None:
    lines = table(
        (Column("A", least=4), Column("N", is_number=True), Column("B")),
        [["日本", "1", "x"], ["e\u0301", "22", "y"]],
        80,
    )
    assert lines == ["A      N  B", "日本   1  x", "e\u0301     22  y"]


def test_what_is_left_out_and_what_is_cut() -> None:
    columns = (Column("A", least=2), Column("BB", spare=1), Column("CC", spare=2), Column("D"))
    row = [["aaaa", "bb", "cc", "d"]]
    assert table(columns, row, 15)[1] == "aaaa  bb  cc  d"
    assert table(columns, row, 13)[1] == "a…  bb  cc  d"
    assert table(columns, row, 12)[1] == "aaaa  bb  d"
    assert table(columns, row, 8)[1] == "aaaa  d"
    assert table(columns, row, 5)[1] == "a…  d"
    assert table(columns, row, 4)[1] == "a…  "[:3] + "…"


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 50), (40, 10), (80, 8), (80, 1000)])
@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_a_frame_fits(columns: int, lines: int, count: int) -> None:
    before = sample(many_pools(count), many_requests(count), 0.0)
    now = sample(many_pools(count), many_requests(count * 3), 1.0)
    for note in ("", "no server\n\x1b[2J" * 20):
        shown = frame(now, before, columns, lines, PLAIN, note)
        assert len(shown) <= lines
        assert max(map(width, shown)) <= columns
        assert all(line.isprintable() for line in shown)


def test_rates_are_differences_by_second() -> None:
    worker = make_worker(served=100, cpu_s=1.0)
    queue = make_pool()["queue"]
    before = sample([make_pool(workers=[worker])], [], 10.0)
    later = make_worker(served=160, cpu_s=2.0)
    now = sample([make_pool(workers=[later], queue={**queue, "arrived": 12845})], [], 12.0)
    before.status["counters"]["requests"] = 10_000
    now.status["counters"]["requests"] = 34_000
    text = "\n".join(frame(now, before, 120, 40, PLAIN))
    assert "12.0k req/s" in text
    assert re.search(r"^shop .* 250 +0 +1 +1/4 +50 +50M$", text, re.M)  # arrived, rejected
    assert re.search(r"^shop +4003  ready +30\b", text, re.M)
    restarted = sample([make_pool()], [], 12.0)
    restarted.status["service_pid"] = 1
    text = "\n".join(frame(restarted, before, 120, 40, PLAIN))
    assert "- req/s" in text


def test_workers_that_have_no_process_yet_have_no_rates() -> None:
    waiting = [make_worker(-1, pid=0, cpu_s=-1, served=0) for _ in range(3)]
    starting = make_worker(-1, pid=4004, cpu_s=0.5, served=0)
    before = sample([make_pool(workers=[make_worker(cpu_s=1.0), starting, *waiting])], [], 10.0)
    introduced = make_worker(4, pid=4004, cpu_s=1.5, served=20)
    now = sample([make_pool(workers=[make_worker(cpu_s=2.0), introduced, *waiting])], [], 12.0)
    text = "\n".join(frame(now, before, 120, 40, PLAIN))
    assert re.search(r"^shop .* 1/4 +100 ", text, re.M)
    assert re.search(r"^shop +4003  ready +0 +50 ", text, re.M)
    assert re.search(r"^shop +4004  ready +10 +50 ", text, re.M)
    assert len(re.findall(r"^shop +-  ready +- +- ", text, re.M)) == 3


def test_what_executes_stands_before_what_waits_and_what_idles() -> None:
    pools = [make_pool(workers=[make_worker(1), make_worker(2), make_worker(3)])]
    requests = [
        make_request(worker=2, elapsed_ms=100, target="/short"),
        make_request(worker=3, elapsed_ms=9000, target="/long"),
        make_request(worker=3, elapsed_ms=50, target="/other"),
        make_request(worker=-1, elapsed_ms=70, state="queued", target="/waits"),
    ]
    lines = frame(sample(pools, requests), None, 120, 40, PLAIN)
    rows = [line.split()[-1] for line in lines[lines.index(next(
        line for line in lines if "REQUEST" in line)) + 1:]]  # fmt: skip
    assert rows == [
        "shop.example/long",
        "shop.example/other",
        "shop.example/short",
        "shop.example/waits",
        "-",
    ]


def test_many_pools_leave_the_busy_ones() -> None:
    pools = many_pools(100)
    busy = make_pool("busy")
    busy["queue"]["length"] = 999
    lines = frame(sample([*pools, busy], []), None, 80, 24, PLAIN)
    assert any("more pools" in line for line in lines)
    bad = [pool for pool in pools if pool["state"] == "DISABLED"]
    assert len(bad) > 10  # they stand before it: somebody should look at them
    lines = frame(sample([*(p for p in pools if p not in bad), busy], []), None, 80, 24, PLAIN)
    assert lines[4].startswith("busy ")


def test_colours_only_where_wanted() -> None:
    lines = pool_table([make_pool(state="DISABLED")], 80, Paint(True))
    assert lines[1].startswith("\x1b[31mshop")
    assert event_line(make_event(level="warning"), 80, Paint(True)).startswith("\x1b[33m")
    assert "\x1b" not in "".join(pool_table([make_pool(state="DISABLED")], 80, PLAIN))


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (say_ms(0), "0ms"),
        (say_ms(999), "999ms"),
        (say_ms(1000), "1.0s"),
        (say_ms(59_999), "59s"),
        (say_ms(60_000), "1m00s"),
        (say_ms(3_599_000), "59m59s"),
        (say_ms(3_600_000), "1h00m"),
        (say_ms(90_000_000), "1d01h"),
        (say_ms(-1), "-"),
        (say_count(9999), "9999"),
        (say_count(12_345), "12.3k"),
        (say_count(99_949), "99.9k"),
        (say_count(99_960), "100k"),
        (say_count(123_456), "123k"),
        (say_count(1_000_000), "1.0M"),
        (say_rate(None), "-"),
        (say_rate(0), "0"),
        (say_rate(0.25), "0.2"),
        (say_rate(15.5), "16"),
        (say_kib(-1), "-"),
        (say_kib(1023), "1023K"),
        (say_kib(51_200), "50M"),
        (say_kib(3 * 1024 * 1024), "3.0G"),
        (cut("abc", 0), ""),
        (cut("日本", 3), "日…"),
        (pad("日", 4, to_right=True), "  日"),
    ],
)
def test_figures(shown: str, text: str) -> None:
    assert shown == text


# -- top, as a command ------------------------------------------------------------------------


def test_top_prints_frames_where_nobody_presses_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    served = Served(tmp_path / "s")
    words = ["top", "--control", served.path, "--interval", "0.05"]
    assert main(words) == 0
    one = capsys.readouterr().out
    assert "\x1b" not in one
    assert max(map(width, one.splitlines())) <= 80
    assert main([*words, "--frames", "2"]) == 0
    assert capsys.readouterr().out.count("kernelq 1.2") == 2
    assert main([*words, "--frames", "2", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    served.close()
    assert main(words) == 1
    assert "there is no such socket" in capsys.readouterr().err
    assert main([*words[:-1], "0"]) == 2


class Terminal:
    """`kernelq top` on a terminal of its own."""

    def __init__(self, path: str, columns: int, lines: int, **environment: str) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (lines, columns))
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kernelq", "top", "--control", path, "--interval", "0.05"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={
                **{k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")},
                "PYTHONPATH": str(ROOT),
                **environment,
            },
        )
        self.slave = slave
        self.data = b""

    @property
    def text(self) -> str:
        return self.data.decode(errors="replace")

    def expect(self, pattern: str) -> None:
        while not re.search(pattern, self.text, re.S):
            assert select.select([self.master], [], [], PATIENCE)[0], self.text
            self.data += os.read(self.master, 65536)

    def press(self, key: bytes) -> None:
        os.write(self.master, key)

    def frames(self) -> list[list[str]]:
        whole = self.text.split("\x1b[?1049l")[0].split("\x1b[H")[1:-1]
        return [
            re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", one.rstrip("\r\n")).split("\r\n") for one in whole
        ]

    def close(self) -> int:
        try:
            status = self.process.wait(PATIENCE)
        finally:
            self.process.kill()
        assert termios.tcgetattr(self.slave) == self.before
        os.close(self.master)
        os.close(self.slave)
        return status


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 50)])
def test_top_on_a_terminal(tmp_path: Path, columns: int, lines: int) -> None:
    served = Served(tmp_path / "s")
    served.managers.all_pools = {pool["name"]: pool for pool in many_pools(30)}
    served.managers.all_requests = many_requests(100)
    terminal = Terminal(served.path, columns, lines)
    terminal.expect(r"(\x1b\[H.*){4}")
    terminal.press(b"q")
    terminal.expect(r"\x1b\[\?1049l")
    assert terminal.close() == 0
    served.close()
    assert len(terminal.frames()) >= 3
    for shown in terminal.frames():
        assert len(shown) <= lines
        assert max(map(width, shown)) <= columns
    assert "\x1b[1m" in terminal.text


def test_top_survives_a_restart_and_shows_no_colours_if_told(tmp_path: Path) -> None:
    served = Served(tmp_path / "s")
    terminal = Terminal(served.path, 100, 30, NO_COLOR="1")
    terminal.expect("process 4711")
    served.close()
    terminal.expect("trying again")
    again = Served(tmp_path / "s")
    again.managers.all_pools = {"new": make_pool("reborn")}
    terminal.expect("reborn")
    terminal.process.send_signal(signal.SIGTERM)
    terminal.expect(r"\x1b\[\?1049l")
    assert terminal.close() == 130
    assert not re.search(r"\x1b\[\d+m", terminal.text)
    again.close()
