"""The protocols that rest on store, fence, load: every interleaving, with store buffers.

A machine may hold a store back in a buffer while later loads of the same processor already read
memory (x86 does; others do more, which the C compiler's fences forbid likewise). Each program is a
list of steps; the search tries every order of steps and of buffered stores reaching memory, and
gives all outcomes. Without its fences each protocol must fail here: the search does see.
"""

from __future__ import annotations

from typing import Any

import pytest
from kernelq._coretest import revocation_race

Step = tuple[str, ...]
State = tuple[
    tuple[tuple[str, int], ...],  # memory
    tuple[tuple[tuple[str, int], ...], ...],  # buffered stores of each processor, oldest first
    tuple[int, ...],  # next step of each processor
    tuple[tuple[tuple[str, int], ...], ...],  # registers of each processor
]


def successors(state: State, programs: list[list[Step]]) -> list[State]:
    """All states that one step, or one buffered store reaching memory, leads to."""
    memory, buffers, at, registers = state
    found: list[State] = []
    for who, program in enumerate(programs):
        if buffers[who]:
            name, value = buffers[who][0]
            after = tuple(sorted({**dict(memory), name: value}.items()))
            found.append((after, put(buffers, who, buffers[who][1:]), at, registers))
        if at[who] == len(program):
            continue
        step = program[at[who]]
        ahead = put(at, who, at[who] + 1)
        if step[0] == "store":
            longer = (*buffers[who], (step[1], int(step[2])))
            found.append((memory, put(buffers, who, longer), ahead, registers))
        elif step[0] == "fence":
            if not buffers[who]:
                found.append((memory, buffers, ahead, registers))
        else:
            value = {**dict(memory), **dict(buffers[who])}[step[1]]
            known = tuple(sorted({**dict(registers[who]), step[1]: value}.items()))
            if step[0] == "load":
                found.append((memory, buffers, ahead, put(registers, who, known)))
            else:  # ("unless", name, value, then): skips to a step if it has another value
                target = ahead if value == int(step[2]) else put(at, who, int(step[3]))
                found.append((memory, buffers, target, put(registers, who, known)))
    return found


def put(items: tuple, index: int, value: object) -> tuple:  # type: ignore[type-arg]
    """The tuple with one item replaced."""
    return (*items[:index], value, *items[index + 1 :])


def outcomes(memory: dict[str, int], programs: list[list[Step]]) -> set[tuple[dict[str, int], ...]]:
    """Memory and registers of every way to the end, as sets of items."""
    start: State = (
        tuple(sorted(memory.items())),
        ((),) * len(programs),
        (0,) * len(programs),
        ((),) * len(programs),
    )
    seen = {start}
    todo = [start]
    ends = set()
    while todo:
        state = todo.pop()
        following = successors(state, programs)
        if not following:
            ends.add((state[0], *state[3]))
        for one in following:
            if one not in seen:
                seen.add(one)
                todo.append(one)
    return ends  # type: ignore[return-value]


def register(end: Any, name: str) -> int:
    """What a register of one program, or a word of memory, holds at the end."""
    return int(dict(end)[name])


def revocation(fence: list[Step]) -> set[tuple[int, int]]:
    """What (core, worker) may have seen of the other's store."""
    core = [("store", "revoked", "1"), *fence, ("load", "started")]
    worker = [("store", "started", "1"), *fence, ("load", "revoked")]
    ends = outcomes({"revoked": 0, "started": 0}, [core, worker])
    return {(register(end[1], "started"), register(end[2], "revoked")) for end in ends}


def test_a_request_is_started_or_taken_back_and_one_of_both_knows() -> None:
    assert revocation([("fence",)]) == {(1, 0), (0, 1), (1, 1)}


def test_without_fences_the_search_finds_what_goes_wrong() -> None:
    assert (0, 0) in revocation([])


def doorbell(fence: list[Step]) -> set[tuple[int, int]]:
    """(rung, slept) when one record is published while the reader falls asleep."""
    writer = [("store", "published", "1"), *fence, ("unless", "armed", "1", str(3 + len(fence)))]
    writer += [("store", "rung", "1")]
    reader = [("store", "armed", "1"), *fence, ("unless", "published", "0", str(3 + len(fence)))]
    reader += [("store", "slept", "1")]
    ends = outcomes({"published": 0, "armed": 0, "rung": 0, "slept": 0}, [writer, reader])
    return {(register(end[0], "rung"), register(end[0], "slept")) for end in ends}


def test_no_reader_sleeps_over_a_record_without_being_rung() -> None:
    assert doorbell([("fence",)]) == {(1, 1), (1, 0), (0, 0)}


def test_without_fences_it_would() -> None:
    assert (0, 1) in doorbell([])


@pytest.mark.parametrize("rounds", [20_000])
def test_revocation_on_this_machine(rounds: int) -> None:
    # Two threads of C, started together again and again: how often neither saw the other, and how
    # often they met at all.
    blind, met = revocation_race(rounds)
    assert blind == 0
    assert 0 <= met <= rounds


def reclamation(fence: list[Step], epochs: int = 2) -> set[int]:
    """What a loop that found an entry of the response cache sees of its memory: 0 there, 1 freed.
    The store frees after so many epochs (kernelq/core/cache_evict.pxi)."""
    size = len(fence)
    reader: list[Step] = []
    for epoch in (3, 4, 5):
        first = len(reader)
        reader += [
            ("unless", "epoch", str(epoch), str(first + 6 + size)),
            ("store", "seen", str(epoch)),
            *fence,
            ("unless", "linked", "1", str(first + 4 + size)),
            ("load", "freed"),
            ("store", "seen", "0"),
            ("unless", "never", "1", str(3 * (6 + size))),
        ]
    retirer = [("store", "linked", "0"), *fence]
    for epoch in (3, 4):
        behind = str(len(retirer) + 3)
        retirer += [("unless", "epoch", str(epoch), behind), ("store", "retired", str(epoch))]
        retirer += [("unless", "never", "1", str(6 + 1 + size))]
    advancer: list[Step] = []
    for epoch in (3, 4, 5):
        first = len(advancer) + size
        advancer += [
            *fence,
            ("unless", "seen", "0", str(first + 2)),
            ("unless", "never", "1", str(first + 3)),
            ("unless", "seen", str(epoch), "99"),
            ("store", "epoch", str(epoch + 1)),
            *fence,
            ("unless", "retired", str(epoch + 1 - epochs), str(first + 5 + size)),
            ("store", "freed", "1"),
        ]
        advancer[-2] = (*advancer[-2][:3], str(len(advancer)))
    advancer = [(*step[:3], str(len(advancer))) if step[-1] == "99" else step for step in advancer]
    start = dict.fromkeys(("seen", "retired", "freed", "never"), 0)
    ends = outcomes({**start, "epoch": 3, "linked": 1}, [reader, retirer, advancer])
    return {dict(end[1])["freed"] for end in ends if "freed" in dict(end[1])}


def test_no_loop_sees_freed_what_it_found() -> None:
    assert reclamation([("fence",)]) == {0}


def test_without_fences_or_with_one_epoch_it_would() -> None:
    assert reclamation([]) == {0, 1}
    assert reclamation([("fence",)], epochs=1) == {0, 1}
