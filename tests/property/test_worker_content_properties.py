"""wsgi.input answers any sequence of calls as io.BytesIO does, from wherever the content comes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_core import FLAG_END, STREAMED, Rig, served
from hypothesis import given
from hypothesis import strategies as st

SIZES = st.one_of(st.none(), st.integers(-2, 40), st.just(10**7))
CALLS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["read", "readline", "readlines"]), SIZES),
        st.tuples(st.just("next"), st.none()),
        st.tuples(st.just("readinto"), st.integers(0, 40)),
    ),
    max_size=12,
)
PIECES = st.lists(
    st.lists(st.sampled_from([b"a", b"\n", b"bc\n", b"d" * 30]), max_size=8), max_size=6
)


def play(stream: Any, calls: list[tuple[str, Any]]) -> list[Any]:
    """What the calls return, one after the other."""
    results: list[Any] = []
    for name, size in calls:
        if name == "next":
            results.append(next(iter(stream), "stop"))
        elif name == "readinto":
            room = bytearray(size)
            results.append((stream.readinto(room), bytes(room)))
        else:
            results.append(getattr(stream, name)(size))
    results.append(stream.read())
    return results


class Player:
    """The application: plays the calls that stand in the test."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.results: list[Any] = []
        self.rig: Any = None

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.results = play(environ["wsgi.input"], self.calls)
        start_response("200 OK", [])
        return []


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    found = Player()
    with served(found) as rig:
        found.rig = rig
        yield found


def hand_streamed(rig: Rig, pieces: list[bytes]) -> int:
    """Hand over a request whose content comes in pieces."""
    dispatch = rig.hand(flags=STREAMED, content_length=-1)
    for piece in pieces:
        rig.tell("CONTENT", dispatch, data=piece)
    rig.tell("CONTENT", dispatch, flags=FLAG_END)
    return dispatch


@given(source=st.sampled_from(["inline", "spilled", "streamed"]), pieces=PIECES, calls=CALLS)
def test_like_bytesio(
    player: Player, tmp_path_factory: Any, source: str, pieces: Any, calls: Any
) -> None:
    parts = [b"".join(piece) for piece in pieces]
    content = b"".join(parts)
    player.calls = calls
    rig: Rig = player.rig
    if source == "streamed":
        rig.collect(hand_streamed(rig, parts))
    elif source == "spilled":
        rig.collect(rig.hand_spilled(content, Path(tmp_path_factory.getbasetemp()) / "spilled"))
    else:
        rig.ask(content=content)
    assert player.results == play(io.BytesIO(content), calls)
