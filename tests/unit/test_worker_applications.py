"""Several applications in one worker: which is called, with which prefix, or that there is none."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fake_core import answering, served
from kernelq._coretest import FakeCore

from kernelq._worker import Channel
from kernelq.errors import StartError


class Source:
    """An application that is loaded when it is asked for; its answer is what it was told of."""

    def __init__(self, name: str, failures: int = 0) -> None:
        self.name = name
        self.failures = failures
        self.loads = 0
        self.seen: list[dict[str, Any]] = []

    def load(self) -> Any:
        self.loads += 1
        if self.loads <= self.failures:
            raise StartError(f"application {self.name!r} failed, for the {self.loads}. time")
        return self.answer

    def answer(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.seen.append(dict(environ))
        start_response("200 OK", [])
        words = (self.name, environ["SCRIPT_NAME"], environ["PATH_INFO"])
        return [" ".join(words).encode("latin-1")]


@pytest.mark.parametrize(
    ("script", "path"),
    [("", "/"), ("", "/shop"), ("/shop", ""), ("/shop", "/"), ("/shop", "/a b/c"), ("/ä/b", "/ö")],
)
def test_the_path_is_split_at_the_prefix(script: str, path: str) -> None:
    source = Source("a")
    with served({0: source}) as rig:
        for _ in range(3):
            content = rig.ask(target="/raw?x=y", path=path, script=script, query="x=y").content
            assert content == f"a {script} {path}".encode("latin-1")
    assert source.seen[0]["REQUEST_URI"] == "/raw?x=y"
    assert source.seen[0]["QUERY_STRING"] == "x=y"


def test_each_request_finds_its_application() -> None:
    sources = {number: Source(f"n{number}") for number in (3, 7, 4_000_000_000)}
    with served(sources) as rig:
        for turn in range(40):
            number = (3, 7, 7, 4_000_000_000, 3)[turn % 5]
            script = f"/s{number}" if turn % 2 else ""
            answer = rig.ask(application=number, script=script, target=f"/{turn}")
            assert answer.content == f"n{number} {script} /{turn}".encode()
    assert [source.loads for source in sources.values()] == [1, 1, 1]


def test_environs_of_applications_have_nothing_of_each_other() -> None:
    sources = {number: Source(str(number)) for number in (1, 2)}
    fields = [("Host", "h"), ("Cookie", "a=b"), ("X-Own", "x" * 30)]
    with served(sources) as rig:
        for turn in range(12):
            rig.ask(application=1, script="/one", fields=[*fields, ("X-One", str(turn))])
            rig.ask(application=2, fields=fields)
    assert all("HTTP_X_ONE" not in environ for environ in sources[2].seen)
    assert [environ["HTTP_X_ONE"] for environ in sources[1].seen] == [str(n) for n in range(12)]
    assert {environ["SCRIPT_NAME"] for environ in sources[2].seen} == {""}


def test_every_thread_asks_for_the_application_once() -> None:
    gate = threading.Barrier(3)

    class Together(Source):
        def answer(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
            gate.wait(20)
            return super().answer(environ, start_response)

    source = Together("a")
    with served({5: source}, threads=3) as rig:
        for _ in range(4):
            handed = [rig.hand(application=5) for _ in range(3)]
            assert [rig.collect(dispatch).content for dispatch in handed] == [b"a  /"] * 3
    assert source.loads == 3


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    sources = {1: Source("a"), 2: Source("b")}
    with served(sources) as rig:
        rig.ask(application=2)
    assert [source.loads for source in sources.values()] == [0, 1]


def test_a_failed_load_is_a_500_and_tried_again(capfd: Any) -> None:
    source = Source("bad", failures=2)
    with served({1: Source("good"), 2: source}) as rig:
        for _ in range(2):
            answer = rig.ask(application=2, target="/x")
            assert (answer.status, answer.content) == (500, b"Internal Server Error\n")
            assert answer.fields == [("Content-Type", "text/plain; charset=utf-8")]
            assert not answer.is_cut
        assert rig.ask(application=1).content == b"good  /"
        assert rig.ask(application=2).content == b"bad  /"
    lines = [line for line in capfd.readouterr().err.splitlines() if "bad" in line]
    assert len(lines) == 2
    assert "error application 'bad' failed, for the 1. time client 192.0.2.1 \"GET /x\"" in lines[0]


def test_a_load_that_raises_anything_else_is_a_500(capfd: Any) -> None:
    class Broken(Source):
        def load(self) -> Any:
            raise LookupError("oh")

    with served({1: Broken("a")}) as rig:
        assert rig.ask(application=1).status == 500
    assert "LookupError: oh" in capfd.readouterr().err


def test_an_unknown_application_is_a_503(capfd: Any) -> None:
    with served({1: Source("a")}) as rig:
        for number in (0, 2, 2):
            answer = rig.ask(application=number, target="/x", script="/s")
            assert (answer.status, answer.content) == (503, b"Service Unavailable\n")
        assert rig.ask(application=1).content == b"a  /"
        assert rig.ask(application=9, method="HEAD").content == b""
    words = "error the request is for application 2, which this worker does not have client"
    assert capfd.readouterr().err.count(words) == 2


def test_an_unknown_application_with_content(capfd: Any) -> None:
    with served({1: Source("a")}) as rig:
        assert rig.ask(application=2, method="POST", content=b"x" * 1000).status == 503
        assert rig.ask(application=1).status == 200


def test_one_application_is_called_whatever_its_number() -> None:
    with served({12: answered_by(b"x")}) as rig:
        assert rig.ask(application=12).content == b"x"


def answered_by(content: bytes) -> Source:
    source = Source("fixed")
    source.answer = answering(content)  # type: ignore[method-assign]
    return source


def test_no_application_at_all() -> None:
    core = FakeCore(slots=1)
    channel = Channel(list(core.worker_fds))
    with pytest.raises(ValueError, match="no application"):
        channel.serve({}, 1)
    channel.close()
    core.close()
