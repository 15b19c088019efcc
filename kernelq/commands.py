"""The commands that talk to a running server over its control socket: `kernelq status` and others.

Ends with 0; with 1 when there is no server, or it refused, or nothing was found; with 2 for a
command that cannot be understood; with 130 after Ctrl-C. What a server says is shown without
control characters: it holds what clients and applications wrote.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kernelq import show, show_cache
from kernelq.columns import UNLIMITED, clean, count
from kernelq.control import Client, ControlError
from kernelq.errors import BAD_OPTION, FAILED, OptionError
from kernelq.managed import unknown_name
from kernelq.protocol import ENTRIES_MAX, REQUESTS_MAX
from kernelq.show import Paint
from kernelq.subjects import SUBJECTS
from kernelq.units import is_decimal
from kernelq.watching import follow_events, parse_since, watch_top
from kernelq.words import Parser, complain, drop_output

INTERRUPTED = 130
_URL_COLUMNS_MIN = 40

Words = argparse.Namespace


def main(arguments: Sequence[str]) -> int:
    """`kernelq SUBJECT ...`: the command; gives the status to end with."""
    subject = arguments[0]
    _be_lenient_with_letters()
    try:
        words = make_parser(subject).parse_args(arguments[1:])
        with Client(words.control) as client:
            status = _DOERS[subject][1](client, words)
        sys.stdout.flush()
        return status
    except OptionError as found:
        complain(str(found))
        complain(f"`kernelq {subject} --help` lists what is allowed")
        return BAD_OPTION
    except ControlError as found:
        sys.stdout.flush()
        complain(str(found))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        drop_output()
        return FAILED


def make_parser(subject: str) -> argparse.ArgumentParser:
    parser = Parser(prog=f"kernelq {subject}", description=SUBJECTS[subject].text)
    if subject != "cache":
        _add_common(parser)
    _DOERS[subject][0](parser)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--control", metavar="PATH", help="the server's control socket [the only "
                        "one in the default folders]")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the server's answer as it is")


def _be_lenient_with_letters() -> None:
    # A terminal that knows no ellipsis shows a question mark.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def _room() -> int:
    """Columns of the terminal; what is no terminal takes any length."""
    if not sys.stdout.isatty():
        return UNLIMITED
    return max(shutil.get_terminal_size().columns, _URL_COLUMNS_MIN)


def _paint() -> Paint:
    return Paint(sys.stdout.isatty() and not os.environ.get("NO_COLOR"))


def _answer(
    words: Words, answer: Mapping[str, Any], lines: Callable[[], Iterable[str]], note: str = ""
) -> None:
    """What the server said: as it is, or in lines for people; then a note may stand beside them."""
    if words.json:
        plain = {name: value for name, value in answer.items() if name != "ok"}
        print(json.dumps(plain, indent=1))
        return
    sys.stdout.write("".join(f"{line}\n" for line in lines()))
    if note:
        print(note, file=sys.stderr)


# Looking.


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    del parser


def _status(client: Client, words: Words) -> int:
    status, pools = client.status(), client.pools()
    answer = {"status": status, "pools": pools}
    _answer(words, answer, lambda: show.status_lines(status, pools, _room(), _paint()))
    return 0


def _pools(client: Client, words: Words) -> int:
    pools = client.pools()
    _answer(words, {"pools": pools}, lambda: show.pool_table(pools, _room(), _paint()))
    return 0


def _sites_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--match", metavar="URL", help="only: who would answer this URL")


def _sites(client: Client, words: Words) -> int:
    if words.match is not None:
        match = client.match(words.match)
        _answer(words, match, lambda: show.match_lines(match))
        return 0 if match["found"] else FAILED
    sites = client.sites()
    _answer(words, {"sites": sites}, lambda: show.site_table(sites, _room(), _paint()))
    return 0


def _requests_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pool", metavar="POOL", default="", help="of this pool only")


def _requests(client: Client, words: Words) -> int:
    answer = client.ask("requests", pool=words.pool, most=REQUESTS_MAX)
    _answer(
        words,
        answer,
        lambda: show.request_table(answer["requests"], _room(), _paint()),
        "" if answer["complete"] else f"there are more than these {REQUESTS_MAX}",
    )
    return 0


def _top_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--interval", metavar="SECONDS", type=_seconds, default=1.0,
                        help="between two frames [1]")  # fmt: skip
    parser.add_argument("--frames", metavar="N", type=_count, default=0,
                        help="end after so many [1 when nobody can press a key]")  # fmt: skip


def _top(client: Client, words: Words) -> int:
    return watch_top(client, words.interval, words.frames, as_json=words.json, paint=_paint())


def _events_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--follow", action="store_true", help="go on with those to come")
    parser.add_argument("--since", metavar="SERIAL|AGE", type=parse_since, default=0,
                        help="after this serial number, or not older than 10m, 2h")  # fmt: skip


def _events(client: Client, words: Words) -> int:
    return follow_events(
        client, words.since, follow=words.follow, as_json=words.json, room=_room(), paint=_paint()
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.05 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed is 0.05 to 3600 seconds")
    return seconds


def _count(text: str) -> int:
    if not is_decimal(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed is a number from 1")
    return int(text)


# Changing.


def _recycle_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pool", nargs="*", metavar="POOL")
    parser.add_argument("--all", action="store_true", help="every pool, one after the other")


def _recycle(client: Client, words: Words) -> int:
    if bool(words.pool) == words.all:
        raise OptionError("recycle: allowed is either POOL or --all")
    names = client.names()["pools"] if words.all else words.pool
    failed = 0
    for name in names:
        try:
            answer = client.recycle(name)
        except ControlError as found:
            if not (words.all and found.is_refusal):
                raise
            complain(f"{name}: {found}")  # a stopped pool is no reason to spare the others
            failed += 1
            continue
        _say_state(words, answer, f"pool {clean(answer['pool'])} is recycled")
    return FAILED if failed else 0


def _target_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="+", metavar="POOL|SITE", help="pool:NAME or site:NAME where "
                        "a name is both")  # fmt: skip


def _start(client: Client, words: Words) -> int:
    return _switch(client, words, client.pool_start, client.site_start)


def _stop(client: Client, words: Words) -> int:
    return _switch(client, words, client.pool_stop, client.site_stop)


def _switch(
    client: Client, words: Words, pool: Callable[[str], Any], site: Callable[[str], Any]
) -> int:
    # All names first: a slip in the last one shall not leave the others done.
    targets = [find_target(client, name) for name in words.name]
    for kind, name in targets:
        answer = pool(name) if kind == "pool" else site(name)
        _say_state(words, answer, f"{kind} {clean(name)}")
    return 0


def _say_state(words: Words, answer: Any, what: str) -> None:
    _answer(words, answer, lambda: [f"{what}: {show.word(answer['state'])}"])


def find_target(client: Client, text: str) -> tuple[str, str]:
    """("pool" or "site", name); ControlError for what is neither or both."""
    names = client.names()
    pools, sites = names["pools"], names["sites"]
    kinds = [kind for kind, known in (("pool", pools), ("site", sites)) if text in known]
    if len(kinds) == 1:
        return kinds[0], text
    if kinds:
        raise ControlError(
            f"{text!r} is a pool and a site; say which: 'pool:{text}' or 'site:{text}'",
            is_refusal=True,
        )
    kind, colon, name = text.partition(":")
    if colon and kind in ("pool", "site"):
        known = pools if kind == "pool" else sites
        if name in known:
            return kind, name
        raise ControlError(unknown_name(kind, name, known), is_refusal=True)
    known = list(dict.fromkeys([*pools, *sites]))
    raise ControlError(unknown_name("pool or site", text, known), is_refusal=True)


def _stacks_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("worker", metavar="WORKER", type=_count, help="its process id, or its "
                        "number, as `kernelq status` shows them")  # fmt: skip


def _stacks(client: Client, words: Words) -> int:
    answer = client.stacks(words.worker)
    _answer(words, answer, lambda: show.stack_lines(answer))
    return 0


def _reload(client: Client, words: Words) -> int:
    answer = client.reload()
    _answer(words, answer, lambda: show.reload_lines(answer))
    return 0


def _upgrade(client: Client, words: Words) -> int:
    answer = client.upgrade()
    _answer(words, answer, lambda: show.upgrade_lines(answer))
    return 0


# The response cache.


def _cache_arguments(parser: argparse.ArgumentParser) -> None:
    common = Parser(prog="kernelq cache", add_help=False)
    _add_common(common)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|show|counters|flush")
    verb = verbs.add_parser("list", parents=[common], help="what is stored")
    verb.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="a URL: only below")
    verb = verbs.add_parser("show", parents=[common], help="one URL")
    verb.add_argument("url", metavar="URL")
    verbs.add_parser("counters", parents=[common], help="what it has done")
    verb = verbs.add_parser("flush", parents=[common], help="drop")
    verb.add_argument("prefix", nargs="?", metavar="PREFIX", help='a URL; "": everything')
    verb.add_argument("--exact", action="store_true", help="only that very URL, not all below")
    verb.add_argument("--group", metavar="NAME", help="instead: a name in Cache-Groups (RFC 9875)")
    verb.add_argument("--origin", metavar="URL", help="of this origin only, as https://example.org")


def _cache(client: Client, words: Words) -> int:
    answer = client.ask(**_cache_request(words))
    is_absent = words.verb == "show" and not answer["entries"]
    note = ""
    if is_absent:
        note = f"{clean(words.url)}: nothing is stored"
    elif words.verb == "list" and not answer["complete"]:
        note = "there is more: name a longer PREFIX"
    _answer(words, answer, lambda: _cache_lines(words, answer), note)
    return FAILED if is_absent else 0


def _cache_lines(words: Words, answer: Any) -> list[str]:
    if words.verb == "list":
        return show_cache.entry_table(answer["entries"], _room())
    if words.verb == "show":
        lines = (show_cache.entry_lines(entry) for entry in answer["entries"])
        return [line for few in lines for line in [*few, ""]]
    if words.verb == "counters":
        return show_cache.counter_lines(answer["counters"])
    if words.group is not None:
        return [f"the group {clean(words.group)} was flushed"]
    return [f"{count(answer['flushed'], 'response')} flushed"]


def _cache_request(words: Words) -> dict[str, Any]:
    if words.verb == "list":
        return {"do": "cache.list", "prefix": words.prefix, "most": ENTRIES_MAX}
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


# What adds a subject's arguments to its parser, and what does it and gives the status to end with.
_DOERS: dict[
    str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[Client, Words], int]]
] = {
    "status": (_no_arguments, _status),
    "top": (_top_arguments, _top),
    "requests": (_requests_arguments, _requests),
    "pools": (_no_arguments, _pools),
    "sites": (_sites_arguments, _sites),
    "recycle": (_recycle_arguments, _recycle),
    "start": (_target_arguments, _start),
    "stop": (_target_arguments, _stop),
    "stacks": (_stacks_arguments, _stacks),
    "reload": (_no_arguments, _reload),
    "upgrade": (_no_arguments, _upgrade),
    "events": (_events_arguments, _events),
    "cache": (_cache_arguments, _cache),
}
