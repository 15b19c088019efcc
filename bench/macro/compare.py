"""How fast is kernelq, and what does a request cost, against other servers in the same run?

    python -m bench.macro.compare [--cases A,B] [--peers A,B] [--rounds N] [--seconds N] [--quick]

Rounds are interleaved: each round visits all cases and peers once, beginning with another peer
each time, with a fresh server every time. The table shows medians. Wrong bytes or any error end
the run with status 1.
"""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from bench.macro import proc
from bench.macro.cases import CASES, TARGETS, Case
from bench.macro.client import IdleConnections, Malformed
from bench.macro.load import Outcome, beside, generate
from bench.macro.peers import PEERS, TABLE, Peer
from bench.macro.report import chosen, opening, options_of, save, show_table
from bench.macro.server import Failed, Server, prepare

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

DESCRIPTORS = 12_000
COLUMNS = (  # heading, figure of a sample, form
    ("req/s", "rate", "{:,.0f}"),
    ("CPU µs", "cpu", "{:.1f}"),
    ("p50 µs", "p50", "{:,.0f}"),
    ("p99 µs", "p99", "{:,.0f}"),
    ("p99.9 µs", "p999", "{:,.0f}"),
    ("switches", "voluntary", "{:.2f}"),
    ("forced", "involuntary", "{:.2f}"),
    ("client", "client", "{:.0%}"),
    ("B/conn", "per_connection", "{:,.0f}"),
    ("B/entry", "per_entry", "{:,.0f}"),
)
FAULTS = ("errors", "reopened", "lost")
QUICK_ENTRIES = 20_000
FIELDS_SLACK = 24  # bytes by which fields of caches differ from response to response (Age)
WRK_PROBES = 1  # connections that wrk opens only to see whether the address answers


@dataclass(frozen=True)
class Sample:
    rate: float  # requests per second
    p50: float  # microseconds
    p99: float
    p999: float
    cpu: float  # microseconds per request, all processes of the server
    voluntary: float  # context switches per request
    involuntary: float
    client: float  # share of a CPU that the generator used
    per_connection: float  # bytes of user memory (PSS) per idle connection; 0: not measured
    per_entry: float  # bytes of user memory per entry beyond key and response; 0: not measured
    errors: int  # of the load
    reopened: int  # connections that the server closed and wrk silently replaced
    lost: int  # idle connections that did not answer any more


def pss(server: Server) -> float:
    """Bytes of all processes together."""
    return sum(1024 * found.pss for pid in server.pids() if (found := proc.memory(pid)))


def check_bytes(case: Case, outcome: Outcome, size: int) -> None:
    """All responses had the size of the validated one; those cut off by the end may count too."""
    slack = FIELDS_SLACK if case.peers else 0
    least = outcome.requests * (size - slack)
    most = (outcome.requests + case.load.connections * case.load.depth) * (size + slack)
    if not 0.999 * least <= outcome.bytes <= 1.001 * most:
        raise Malformed(f"{outcome.bytes} bytes for {outcome.requests} responses of {size}")


def expected_connections(case: Case) -> int:
    loads = [case.load, *([case.beside] if case.beside else [])]
    return sum(load.connections + WRK_PROBES for load in loads)


def quickly(case: Case) -> Case:
    """The same with few entries."""
    if not case.entries:
        return case
    return replace(case, entries=QUICK_ENTRIES, load=replace(case.load, keys=QUICK_ENTRIES))


def fill(case: Case, server: Server, size: int) -> float:
    """Fills the cache; gives the bytes that each entry takes beyond its key and response."""
    if not case.entries:
        return 0.0
    empty = pss(server)
    case.fill(server.port)
    key = len(f"http://127.0.0.1{case.load.target}/") + 9
    return (pss(server) - empty) / case.entries - size - key


def measure(case: Case, peer: Peer, options: argparse.Namespace) -> Sample:
    with Server(peer, options.python, case.server_cpus) as server:
        size = case.validate(server.port)
        per_entry = fill(case, server, size)
        if case.idle or not options.quick:
            generate(case.load, server.port, 1, case.client_cpus)
        empty = pss(server) if case.idle else 0.0
        with (
            IdleConnections(server.port, case.idle) as idle,
            beside(case.beside, server.port, options.seconds) as server.others,
        ):
            held = pss(server) - empty if case.idle else 0.0
            known = proc.clients(server.port)
            before = server.usage()
            outcome = generate(case.load, server.port, options.seconds, case.client_cpus)
            spent = server.usage() - before
            opened = len(proc.clients(server.port) - known)
            lost = idle.lost()
        check_bytes(case, outcome, size)
        case.validate(server.port)
    if not outcome.requests:
        raise Failed("not one response")
    return Sample(
        rate=outcome.requests / outcome.seconds,
        p50=outcome.p50,
        p99=outcome.p99,
        p999=outcome.p999,
        cpu=1e6 * spent.cpu / outcome.requests,
        voluntary=spent.voluntary / outcome.requests,
        involuntary=spent.involuntary / outcome.requests,
        client=outcome.client,
        per_connection=held / case.idle if case.idle else 0.0,
        per_entry=per_entry,
        errors=outcome.errors,
        reopened=max(opened - expected_connections(case), 0),
        lost=lost,
    )


class Results:
    """Samples by case and peer, the failures, and their report."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
        self.failures: list[str] = []

    def add(self, case: Case, peer: Peer, sample: Sample) -> None:
        self.samples[case.name, peer.name].append(sample)
        faults = {name: getattr(sample, name) for name in FAULTS if getattr(sample, name)}
        if faults:
            self.failures.append(f"{case.name}, {peer.name}: {faults}")

    def median(self, case: str, peer: str, figure: str) -> float | None:
        samples = self.samples.get((case, peer))
        return median(getattr(sample, figure) for sample in samples) if samples else None

    def spread(self, case: str, peer: str) -> float:
        rates = [sample.rate for sample in self.samples[case, peer]]
        return (max(rates) - min(rates)) / 2 / median(rates)

    def show(self) -> None:
        for case in CASES:
            peers = [name for measured, name in self.samples if measured == case.name]
            if peers:
                self._show_case(case, sorted(peers, key=list(PEERS).index))
        self._show_targets()
        for failure in self.failures:
            print(f"FAILED {failure}")

    def _show_case(self, case: Case, peers: list[str]) -> None:
        print(f"\n{case.name}: {case.title}\n")
        head = ["", *(heading for heading, _, _ in COLUMNS), "±", "× rate", "× CPU", "faults"]
        show_table([head, *(self._row(case.name, peer) for peer in peers)])

    def _row(self, case: str, peer: str) -> list[str]:
        def shown(figure: str, form: str) -> str:
            value = self.median(case, peer, figure)
            return form.format(value) if value else "-"

        def ratio(figure: str) -> str:
            own, base = (self.median(case, name, figure) for name in (peer, self.base))
            return f"{own / base:.2f}" if own and base else "-"

        samples = self.samples[case, peer]
        faults = sum(getattr(sample, name) for sample in samples for name in FAULTS)
        figures = [shown(figure, form) for _, figure, form in COLUMNS]
        spread = f"{self.spread(case, peer):.0%}"
        return [peer, *figures, spread, ratio("rate"), ratio("cpu"), str(faults)]

    def _show_targets(self) -> None:
        lines = []
        for target in TARGETS:
            own = self.median(target.case, target.own, target.figure)
            case = target.versus or target.case
            other = self.median(case, target.peer, target.figure) if target.peer else 1.0
            if own and other:
                reached, line = target.judge(own, other)
                lines.append(f"{'reached' if reached else 'MISSED '}  {line}")
        if lines:
            print("\ntargets\n", *lines, sep="\n")


def parse_options() -> argparse.Namespace:
    peers = [peer.name for peer in TABLE if peer.compared]
    parser = options_of("compare", "Compares the speed of kernelq and other servers.", peers)
    parser.add_argument("--cases", default=",".join(case.name for case in CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--base", default="kernelq", help="the peer that ratios refer to")
    parser.add_argument("--quick", action="store_true", help="one round of a second: no figures")
    options = parser.parse_args()
    if options.quick:
        options.rounds = options.seconds = 1
    return options


def takes_part(case: Case, peer: Peer) -> bool:
    if case.peers:
        return peer.name in case.peers
    return not peer.is_cache and case.name not in peer.cannot


def turns(options: argparse.Namespace, peers: list[str]) -> Iterator[tuple[int, Case, Peer]]:
    """All measurements in their order: each round begins with another peer."""
    cases = {case.name: case for case in CASES}
    picked = [cases[name] for name in chosen(options.cases, cases, "case")]
    if options.quick:
        picked = [quickly(case) for case in picked]
    for turn in range(options.rounds):
        first = turn % len(peers)
        for case, name in itertools.product(picked, peers[first:] + peers[:first]):
            if takes_part(case, PEERS[name]):
                yield turn + 1, case, PEERS[name]


def run(options: argparse.Namespace, peers: list[str], results: Results) -> None:
    for turn, case, peer in turns(options, peers):
        try:
            sample = measure(case, peer, options)
        except (Failed, Malformed, OSError) as error:
            results.failures.append(f"{case.name}, {peer.name}: {error}")
            line = str(error)
        else:
            results.add(case, peer, sample)
            line = f"{sample.rate:,.0f}/s, {sample.cpu:.1f} µs"
        print(f"{turn} {case.name} {peer.name}: {line}", file=sys.stderr)


def main() -> int:
    options = parse_options()
    prepare(DESCRIPTORS)
    names, record = opening(options)
    print(f"{options.rounds} rounds of {options.seconds} s")
    results = Results(options.base)
    try:
        run(options, names, results)
    except KeyboardInterrupt:
        results.failures.append("interrupted")
    results.show()
    samples = [
        {"case": case, "peer": peer, **asdict(sample)}
        for (case, peer), taken in results.samples.items()
        for sample in taken
    ]
    save(options, {**record, "samples": samples, "failures": results.failures})
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
