"""The commands that talk to a running server over its control socket: `kernelq cache ...`.

What a server says is shown without control characters: it holds what clients and applications
wrote. Ends with 0; with 1 when there is no server, or it refused, or nothing was found; with 2 for
a command that cannot be understood.
"""

import argparse
import json
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from kernelq import control_socket, log
from kernelq.errors import BAD_OPTION, FAILED, OptionError, StartError
from kernelq.units import GIB, KIB, MIB

SUBJECTS = ("cache",)

_PATIENCE_SECONDS = 120.0  # a flush of millions of entries takes a while
_ENTRIES_SHOWN = 1000
_URL_COLUMNS_MIN = 20

_DESCRIPTION = """\
Show and drop what the response cache of a running server holds.

  kernelq cache list https://example.org/news/      what is stored below a prefix
  kernelq cache show https://example.org/news/7     every stored variant of one URL
  kernelq cache flush https://example.org/news/     drop all below a prefix
  kernelq cache flush --group articles              drop what has this name in its Cache-Groups
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise OptionError(f"cache: {message}")


def make_parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False, allow_abbrev=False)
    common.add_argument("--control", metavar="PATH", help="the server's control socket [the only "
                        "one in the default folders]")  # fmt: skip
    common.add_argument("--json", action="store_true", help="the server's answer as it is")
    parser = _Parser(
        prog="kernelq cache",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|show|counters|flush")
    verb = verbs.add_parser("list", parents=[common], allow_abbrev=False, help="what is stored")
    verb.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="a URL: only below")
    verb = verbs.add_parser("show", parents=[common], allow_abbrev=False, help="one URL")
    verb.add_argument("url", metavar="URL")
    verbs.add_parser("counters", parents=[common], allow_abbrev=False, help="what it has done")
    verb = verbs.add_parser("flush", parents=[common], allow_abbrev=False, help="drop")
    verb.add_argument("prefix", nargs="?", metavar="PREFIX", help='a URL; "": everything')
    verb.add_argument("--exact", action="store_true", help="only that very URL, not all below")
    verb.add_argument("--group", metavar="NAME", help="instead: a name in Cache-Groups (RFC 9875)")
    verb.add_argument("--origin", metavar="URL", help="of this origin only, as https://example.org")
    return parser


def main(arguments: Sequence[str]) -> int:
    """`kernelq SUBJECT ...`: the command; gives the status to end with."""
    try:
        words = make_parser().parse_args(arguments[1:])
        request = _request_of(words)
        answer = ask(words.control or find_server(), request)
        if words.json:
            print(json.dumps(answer, indent=1))
        else:
            _show(words, answer)
        return FAILED if words.verb == "show" and not answer["entries"] else 0
    except StartError as found:
        print(f"kernelq: {log.clean(str(found))}", file=sys.stderr)
        if found.status == BAD_OPTION:
            print("kernelq: `kernelq cache --help` lists what is allowed", file=sys.stderr)
        return found.status
    except BrokenPipeError:
        # Whoever read has seen enough; nothing more is to be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _request_of(words: argparse.Namespace) -> dict[str, Any]:
    if words.verb == "list":
        return {"do": "cache.list", "prefix": words.prefix, "most": _ENTRIES_SHOWN}
    if words.verb == "show":
        return {"do": "cache.show", "url": words.url}
    if words.verb == "counters":
        return {"do": "cache.counters"}
    if (words.prefix is None) == (words.group is None):
        raise OptionError("cache flush: allowed is either PREFIX or --group NAME")
    if words.group is None and words.origin is not None:
        raise OptionError("cache flush: --origin belongs to --group")
    if words.group is not None and words.exact:
        raise OptionError("cache flush: --exact belongs to PREFIX")
    if words.group is not None:
        return {"do": "cache.flush_group", "group": words.group, "origin": words.origin or ""}
    return {"do": "cache.flush", "prefix": words.prefix, "recursive": not words.exact}


# Asking.


def find_server() -> str:
    """The control socket of the only server; StartError when there is none, or several."""
    found = control_socket.find_sockets(os.environ)
    if len(found) == 1:
        return found[0]
    if not found:
        raise StartError(
            "no control socket of a running server that you may use was found; "
            "--control PATH names one"
        )
    raise StartError(
        "several servers run; --control PATH says which is meant:"
        + "".join(f"\n{p}" for p in found)
    )


def ask(path: str, request: dict[str, Any]) -> dict[str, Any]:
    """One request and its answer; StartError for whatever goes wrong."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_PATIENCE_SECONDS)
            sock.connect(path)
            line = _exchange(sock, json.dumps(request).encode("ascii") + b"\n")
    except OSError as found:
        raise StartError(f"{path}: {_explain(found)}") from None
    try:
        answer = json.loads(line)
        is_done = answer["ok"]
    except (ValueError, KeyError, TypeError):
        raise StartError(f"{path}: what answers there is no server of ours") from None
    if not is_done:
        raise StartError(str(answer.get("error")))
    return dict(answer)


def _exchange(sock: socket.socket, line: bytes) -> bytes:
    try:
        sock.sendall(line)
    except BrokenPipeError:
        pass  # refused before it was read: the answer says why
    with sock.makefile("rb") as stream:
        return stream.readline()


def _explain(found: OSError) -> str:
    if isinstance(found, FileNotFoundError):
        return "there is no such socket"
    if isinstance(found, ConnectionRefusedError):
        return "no server listens there any more"
    if isinstance(found, PermissionError):
        return "no permission: only the user that serves, and root, may ask"
    if isinstance(found, TimeoutError):
        return f"no answer within {_PATIENCE_SECONDS:g} s"
    return found.strerror or str(found)


# Showing.


def _show(words: argparse.Namespace, answer: dict[str, Any]) -> None:
    if words.verb == "list":
        _show_table(answer["entries"])
        if not answer["complete"]:
            print("there is more: name a longer PREFIX", file=sys.stderr)
    elif words.verb == "show":
        for entry in answer["entries"]:
            _show_entry(entry)
        if not answer["entries"]:
            print(f"{log.clean(words.url)}: nothing is stored", file=sys.stderr)
    elif words.verb == "counters":
        _show_counters(answer["counters"])
    elif words.group is not None:
        print(f"the group {log.clean(words.group)} was flushed")
    else:
        print(f"{_count(answer['flushed'], 'response')} flushed")


# The names of HTTP.sys ("HTTP Service" in perfmon) where it has them.
_COUNTERS = {
    "cache_uris_now": "CurrentUrisCached",
    "cache_uris_total": "TotalUrisCached",
    "cache_hits": "UriCacheHits",
    "cache_misses": "UriCacheMisses",
    "cache_flushes": "UriCacheFlushes",
    "cache_flushed": "TotalFlushedUris",
    "cache_bytes": "Bytes",
    "cache_evicted": "Evicted",
    "cache_scavenged": "Scavenged",
    "cache_collapsed": "Collapsed",
    "cache_revalidated": "Revalidated",
    "cache_stale": "Stale",
    "cache_bypassed": "Bypassed",
}


def _show_counters(counters: dict[str, int]) -> None:
    for name, shown in _COUNTERS.items():
        print(f"{shown:<20}{counters.get(name, 0):>16,}")


def _show_table(entries: list[dict[str, Any]]) -> None:
    rows = [_row(entry) for entry in sorted(entries, key=lambda entry: str(entry["key"]))]
    heads = ("STATUS", "SIZE", "AGE", "FRESH", "URL")
    widths = [max(len(row[n]) for row in [heads, *rows]) for n in range(4)]
    room = sys.maxsize
    if sys.stdout.isatty():
        room = max(shutil.get_terminal_size().columns - sum(widths) - 8, _URL_COLUMNS_MIN)
    for row in [heads, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, _cut(row[4], room)]))


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    left = int(entry["lifetime"]) - int(entry["age"])
    fresh = "flushed" if entry.get("flushed") else _time(left) if left > 0 else "stale"
    size, age = _size(int(entry["bytes"])), _time(int(entry["age"]))
    return (str(entry["status"]), size, age, fresh, log.clean(str(entry["key"])))


def _show_entry(entry: dict[str, Any]) -> None:
    for name, value in entry.items():
        text = "yes" if value is True else "no" if value is False else str(value)
        print(f"{name + ':':<16}{log.clean(text)}")
    print()


def _cut(text: str, columns: int) -> str:
    return text if len(text) <= columns else text[: columns - 1] + "…"


def _time(seconds: int) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _size(count: int) -> str:
    for unit, size in (("G", GIB), ("M", MIB), ("K", KIB)):
        if count >= 10 * size:
            return f"{count // size}{unit}"
    return str(count)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
