"""How fast is kernelq, and what does a request cost, against other servers in the same run?

    python -m bench.macro.compare [--cases A,B] [--peers A,B] [--rounds N] [--seconds N] [--quick]

Rounds are interleaved: each round visits all cases and peers once, beginning with another peer
each time, with a fresh server every time. The table shows medians. Wrong bytes or any error end
the run with status 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from statistics import median

from bench.macro import proc
from bench.macro.cases import CASES, TARGETS, Case
from bench.macro.client import IdleConnections, Malformed
from bench.macro.load import Outcome, generate
from bench.macro.peers import PEERS, TABLE, TOOLS, Peer
from bench.macro.server import Failed, Server, prepare

DESCRIPTORS = 12_000
LATENCIES = ("p50", "p99", "p999")
FAULTS = ("errors", "reopened", "lost")
CLIENT_BUSY = 0.8  # a generator above this share of its CPU may be what limits the figure


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
    errors: int  # of the load
    reopened: int  # connections that the server closed and wrk silently replaced
    lost: int  # idle connections that did not answer any more


def pss(server: Server) -> float:
    """Bytes of all processes together."""
    return sum(1024 * found.pss for pid in server.pids() if (found := proc.memory(pid)))


def check_bytes(case: Case, outcome: Outcome, size: int) -> None:
    """All responses had the size of the validated one; those cut off by the end may count too."""
    least = outcome.requests * size
    most = least + case.load.connections * case.load.depth * size
    if not 0.999 * least <= outcome.bytes <= 1.001 * most:
        raise Malformed(f"{outcome.bytes} bytes for {outcome.requests} responses of {size}")


def measure(case: Case, peer: Peer, options: argparse.Namespace) -> Sample:
    with Server(peer, options.python, case.server_cpus) as server:
        size = case.validate(server.port)
        if case.idle or not options.quick:
            generate(case.load, server.port, 1, case.client_cpus)
        empty = pss(server) if case.idle else 0.0
        with IdleConnections(server.port, case.idle) as idle:
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
        errors=outcome.errors,
        reopened=max(opened - case.load.connections, 0),
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
        head = ("", "req/s", "±", "ratio", "CPU µs", "ratio", "p50 µs", "p99 µs", "p99.9 µs")
        head += ("switches", "forced", "client", "errors")
        rows = [self._row(case, peer) for peer in peers]
        if case.idle:
            head += ("B/conn",)
        table = [head, *rows]
        widths = [max(len(row[column]) for row in table) for column in range(len(head))]
        for row in table:
            cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            print("  ".join([row[0].ljust(widths[0]), *cells]))

    def _row(self, case: Case, peer: str) -> tuple[str, ...]:
        def value(figure: str) -> float:
            return self.median(case.name, peer, figure) or 0.0

        def ratio(figure: str) -> str:
            base = self.median(case.name, self.base, figure)
            return f"{value(figure) / base:.2f}" if base else "-"

        busy = "!" if value("client") > CLIENT_BUSY else ""
        row = (peer, f"{value('rate'):,.0f}", f"{self.spread(case.name, peer):.0%}", ratio("rate"))
        row += (f"{value('cpu'):.1f}", ratio("cpu"))
        row += tuple(f"{value(figure):,.0f}" if value(figure) else "-" for figure in LATENCIES)
        row += tuple(f"{value(figure):.2f}" for figure in ("voluntary", "involuntary"))
        row += (f"{value('client'):.0%}{busy}",)
        samples = self.samples[case.name, peer]
        row += (str(sum(getattr(sample, name) for sample in samples for name in FAULTS)),)
        return (*row, f"{value('per_connection'):,.0f}") if case.idle else row

    def _show_targets(self) -> None:
        lines = []
        for target in TARGETS:
            own = self.median(target.case, "kernelq", target.figure)
            other = self.median(target.case, target.peer, target.figure) if target.peer else 1.0
            if own is not None and other:
                reached, line = target.judge(own, other)
                lines.append(f"{'reached' if reached else 'MISSED '}  {line}")
        if lines:
            print("\ntargets\n", *lines, sep="\n")


def chosen(names: str, table: dict[str, object], what: str) -> list[str]:
    picked = names.split(",")
    if unknown := [name for name in picked if name not in table]:
        sys.exit(f"no such {what}: {', '.join(unknown)}; there are {', '.join(table)}")
    return picked


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.macro.compare",
        description="Compares kernelq with other servers; bench/README.md says what it means.",
    )
    parser.add_argument("--cases", default=",".join(case.name for case in CASES))
    parser.add_argument("--peers", default=",".join(p.name for p in TABLE if p.compared))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--base", default="kernelq", help="the peer that ratios refer to")
    parser.add_argument("--json", metavar="FILE", help="every sample, for later")
    parser.add_argument("--python", default=sys.executable, help="the interpreter with kernelq")
    parser.add_argument(
        "--quick", action="store_true", help="one round of a second: does it work? No figures"
    )
    options = parser.parse_args()
    if options.quick:
        options.rounds = options.seconds = 1
    return options


def installed(names: list[str], python: str) -> dict[str, str]:
    """Version by peer; says which are left out."""
    versions = {name: PEERS[name].installed(python) for name in names}
    for name, version in versions.items():
        print(f"  {name:15} {version or 'not installed: left out'}")
    return {name: version for name, version in versions.items() if version}


def run(options: argparse.Namespace, names: list[str], results: Results) -> None:
    cases = {case.name: case for case in CASES}
    picked = [cases[name] for name in chosen(options.cases, cases, "case")]
    for turn in range(options.rounds):
        for case in picked:
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                if case.name in PEERS[name].cannot:
                    continue
                try:
                    sample = measure(case, PEERS[name], options)
                except (Failed, Malformed, OSError) as error:
                    results.failures.append(f"{case.name}, {name}: {error}")
                    print(f"{turn + 1} {case.name} {name}: {error}", file=sys.stderr)
                    continue
                results.add(case, PEERS[name], sample)
                line = f"{sample.rate:,.0f}/s {sample.cpu:.1f} µs"
                print(f"{turn + 1} {case.name} {name}: {line}", file=sys.stderr)


def main() -> int:
    options = parse_options()
    names = chosen(options.peers, PEERS, "peer")
    prepare(DESCRIPTORS)
    if not TOOLS.is_dir():
        sys.exit("run bench/setup.sh first")
    machine = f"{proc.machine()}, Python {sys.version.split()[0]}"
    print(f"{machine}\n{options.rounds} rounds of {options.seconds} s\n")
    versions = installed(names, options.python)
    results = Results(options.base)
    try:
        run(options, list(versions), results)
    except KeyboardInterrupt:
        results.failures.append("interrupted")
    results.show()
    if options.json:
        keep(options, machine, versions, results)
    return 1 if results.failures else 0


def keep(
    options: argparse.Namespace, machine: str, versions: dict[str, str], results: Results
) -> None:
    record = {
        "machine": machine,
        "options": vars(options),
        "versions": versions,
        "commands": {name: PEERS[name].command for name in versions},
        "samples": [
            {"case": case, "peer": peer, **asdict(sample)}
            for (case, peer), samples in results.samples.items()
            for sample in samples
        ],
        "failures": results.failures,
    }
    with open(options.json, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)


if __name__ == "__main__":
    sys.exit(main())
