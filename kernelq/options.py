"""The one table of options: from it come the command line's parser, its help, the defaults and the
documents.

Rules: every bound has a name, a default and a unit here. A parser takes the user's text and returns
the value, or raises ValueError with what would have been right ("a whole number from 1 to 64"); the
option's name and what was found are added in one place (`parse_option`).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kernelq import log
from kernelq.binding import parse_binding
from kernelq.errors import OptionError
from kernelq.units import GIB, KIB, MIB, MS, SECOND, is_decimal

DEFAULT_BINDING = "127.0.0.1:8000"
HEALTH_PATH = "/.kernelq"
UNIX_PATH_MAX = 107  # sun_path is 108 bytes, with the NUL at its end


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table: the option's name, how its value is written, and what it does."""

    name: str
    metavar: str
    default: str
    parse: Callable[[str], Any]
    help: str
    group: str
    repeatable: bool = False

    @property
    def key(self) -> str:
        return self.name.lstrip("-").replace("-", "_")

    @property
    def is_flag(self) -> bool:
        return not self.metavar


def parse_option(option: Option, text: str) -> Any:
    """The value of an option's text; OptionError says what was found and what is allowed."""
    try:
        return option.parse(text)
    except ValueError as allowed:
        raise OptionError(f"{option.name}: found {text!r}, allowed is {allowed}") from None


def number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not is_decimal(text) or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return parse


def cpu_count_or(least: int, most: int) -> Callable[[str], int]:
    """A number, or 0 for "auto": the machine decides when everything else is known."""
    parse_number = number(least, most)

    def parse(text: str) -> int:
        if text == "auto":
            return 0
        try:
            return parse_number(text)
        except ValueError as allowed:
            raise ValueError(f"{allowed}, or auto") from None

    return parse


_TIME_UNITS = {"ms": MS, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND, "": SECOND}
_SIZE_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB}


def duration(least_ns: int, off: bool = False) -> Callable[[str], int]:
    """A time in nanoseconds: 30, 30s, 500ms, 2m, 1h; with `off`, also off (0)."""

    def parse(text: str) -> int:
        if off and text == "off":
            return 0
        digits = text.rstrip("hms")
        unit = _TIME_UNITS.get(text[len(digits) :])
        if unit is None or not is_decimal(digits.replace(".", "", 1)):
            raise ValueError(_duration_allowed(least_ns, off))
        value = round(float(digits) * unit)
        if not least_ns <= value <= 365 * 24 * 3600 * SECOND:
            raise ValueError(_duration_allowed(least_ns, off))
        return value

    return parse


def size(least: int, most: int) -> Callable[[str], int]:
    """A number of bytes: 65536, 64K, 64KiB, 1M, 1GiB."""

    def parse(text: str) -> int:
        plain = text.upper().removesuffix("IB").removesuffix("B")
        digits = plain.rstrip("KMG")
        unit = _SIZE_UNITS.get(plain[len(digits) :])
        if unit is None or not is_decimal(digits):
            raise ValueError(f"a size such as 65536, 64K, 1M or 1G, from {least} to {most} bytes")
        if not least <= int(digits) * unit <= most:
            raise ValueError(f"a size from {least} to {most} bytes")
        return int(digits) * unit

    return parse


def one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(" or ".join(words))
        return text

    return parse


def switch(text: str) -> bool:
    return one_of("on", "off")(text) == "on"


def flag(text: str) -> bool:
    return text == "yes"


def any_text(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("a name that is not empty")
    return text


def optional_text(text: str) -> str:
    return text


def octal(text: str) -> int:
    """A file mode mask, or -1 for "as inherited"."""
    if text == "inherited":
        return -1
    try:
        value = int(text, 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o777:
        raise ValueError("an octal mask such as 022 or 077")
    return value


def _count_in_time(text: str, most: int) -> tuple[int, int]:
    count, separator, seconds = text.partition("/")
    if not separator:
        raise ValueError
    return number(1, most)(count), duration(SECOND)(seconds)


def rapid_fail(text: str) -> tuple[int, int]:
    """(deaths, interval in nanoseconds); deaths 0 is off."""
    if text == "off":
        return 0, 300 * SECOND
    try:
        return _count_in_time(text, 1000)
    except ValueError:
        raise ValueError("DEATHS/SECONDS such as 5/300, or off") from None


def frequent_hits(text: str) -> tuple[int, int]:
    """(requests, interval in nanoseconds)."""
    try:
        return _count_in_time(text, 255)
    except ValueError:
        raise ValueError("REQUESTS/SECONDS such as 2/10, from 1 to 255 requests") from None


def scavenge_period(text: str) -> int:
    """A time in nanoseconds; 0 is never."""
    if text == "0":
        return 0
    return duration(SECOND, off=True)(text)


def control_path(text: str) -> str:
    """A path for the control socket, "auto" or "off"."""
    if text in ("auto", "off"):
        return text
    path = os.path.abspath(text)
    if not text or "\0" in text or len(os.fsencode(path)) > UNIX_PATH_MAX:
        raise ValueError(f"a path of at most {UNIX_PATH_MAX} bytes, auto or off")
    return path


def health_path(text: str) -> str:
    if text == "off":
        return ""
    if text == "on":
        return HEALTH_PATH
    if not text.startswith("/") or text.endswith("/") or not text.isascii() or " " in text:
        raise ValueError(f"on ({HEALTH_PATH}), off, or a path such as /health")
    return text


def networks(text: str) -> tuple[str, ...]:
    """Peers whose forwarding fields are believed: networks, unix, * (everybody), none."""
    if text == "none":
        return ()
    import ipaddress

    allowed: list[str] = []
    for word in text.replace(",", " ").split():
        if word in ("unix", "*"):
            allowed.append(word)
        elif word == "loopback":
            allowed += ["127.0.0.0/8", "::1/128"]
        else:
            allowed.append(_network(ipaddress.ip_network, word))
    if not allowed:
        raise ValueError("addresses, networks, loopback, unix or *, separated by commas, or none")
    return tuple(allowed)


def log_level(text: str) -> int:
    return log.LEVELS[one_of(*log.LEVELS)(text)]


def existing_directory(text: str) -> str:
    if not os.path.isdir(text):
        raise ValueError("a directory that exists")
    return os.path.abspath(text)


def _network(parse: Callable[[str], object], word: str) -> str:
    try:
        return str(parse(word))
    except ValueError:
        raise ValueError(
            "an address such as 10.0.0.1, a network such as 10.0.0.0/8, loopback, unix, * or none"
        ) from None


def _duration_allowed(least_ns: int, off: bool) -> str:
    least = f"{least_ns / SECOND:g} s"
    return f"a time such as 30, 30s, 500ms or 2m, at least {least}" + (", or off" if off else "")


APPLICATION = "application"
LISTENING = "listening"
HEALTH = "queue and health"
CONTENT = "content, limits and timers"
CACHE = "response cache"
OPERATION = "operation"

# fmt: off
OPTIONS: tuple[Option, ...] = (
    Option("--chdir", "DIR", ".", existing_directory,
           "work in DIR and import the application from there", APPLICATION),
    Option("--workers", "N", "auto", cpu_count_or(1, 1024),
           "worker processes; auto: one per CPU that this process may use (affinity, cgroup "
           "quota)", APPLICATION),
    Option("--threads", "N", "4", number(1, 484),
           "requests that one worker runs at a time", APPLICATION),
    Option("--preload", "", "no", flag,
           "import the application once and fork the workers from that: replacements in "
           "milliseconds", APPLICATION),
    Option("--user", "NAME", "", optional_text,
           "user (name or number) that serves and runs the application; needs a start as "
           "root", APPLICATION),
    Option("--group", "NAME", "", optional_text,
           "group likewise; default: the user's own", APPLICATION),
    Option("--umask", "MASK", "inherited", octal,
           "file mode mask of the application and of unix sockets, octal", APPLICATION),
    Option("--bind", "ADDRESS", DEFAULT_BINDING, parse_binding,
           "HOST:PORT, [V6]:PORT, unix:PATH or fd://N; may be given several times; sockets "
           "passed by systemd (LISTEN_FDS) are used too", LISTENING, repeatable=True),
    Option("--loops", "N", "auto", cpu_count_or(1, 64),
           "loop threads of the core; auto: 1 below 4 CPUs, then a quarter of them", LISTENING),
    Option("--max-connections", "N", "auto", cpu_count_or(1, 1_000_000),
           "client connections held at a time; auto: as many as the descriptor limit allows",
           LISTENING),
    Option("--keep-alive", "on|off", "on", switch,
           "persistent connections", LISTENING),
    Option("--forwarded-allow-ips", "LIST", "loopback,unix", networks,
           "peers whose X-Forwarded-For, -Proto, -Host and Forwarded fields are believed",
           LISTENING),
    Option("--health-path", "PATH|on|off", "off", health_path,
           f"answer PATH/live and PATH/ready in the core; on: {HEALTH_PATH}", LISTENING),
    Option("--queue-length", "N", "1000", number(1, 1_000_000),
           "requests that may wait for a worker; more are answered 503", HEALTH),
    Option("--queue-timeout", "TIME", "120s", duration(SECOND),
           "how long a request may wait for a worker", HEALTH),
    Option("--request-timeout", "TIME", "off", duration(SECOND, off=True),
           "how long a request may run; then it is answered 504 and its worker is replaced",
           HEALTH),
    Option("--graceful-timeout", "TIME", "30s", duration(0),
           "how long requests may go on when their worker, or everything, is to end", HEALTH),
    Option("--drain-delay", "TIME", "0", duration(0),
           "after the order to stop: answer \"not ready\" but keep serving for TIME (load "
           "balancers need it)", HEALTH),
    Option("--startup-time-limit", "TIME", "90s", duration(SECOND),
           "how long a worker may take to import the application", HEALTH),
    Option("--ping-response-time", "TIME", "90s", duration(SECOND),
           "how long a worker may leave requests unstarted before it is replaced", HEALTH),
    Option("--rapid-fail", "N/TIME|off", "5/300", rapid_fail,
           "after N hopeless deaths of workers within TIME stop starting new ones at once; "
           "try again once per TIME and at reload", HEALTH),
    Option("--redispatch", "WHICH", "idempotent", one_of("idempotent", "always", "never"),
           "which started requests run again when their worker dies: idempotent, always or "
           "never", HEALTH),
    Option("--redispatch-limit", "N", "2", number(0, 100),
           "how often one request is run again", HEALTH),
    Option("--content", "held|streamed", "held", one_of("held", "streamed"),
           "take a request's content in whole before a worker sees it, or pass it on as it "
           "comes", CONTENT),
    Option("--max-content", "SIZE", "1G", size(0, 1 << 50),
           "largest content of a request; larger ones are answered 413", CONTENT),
    Option("--content-memory", "SIZE", "128K", size(0, 1 << 30),
           "content held in memory up to this size, beyond it in --spill-dir", CONTENT),
    Option("--spill-dir", "DIR", "/var/tmp", existing_directory,
           "where held content goes that is too large for memory", CONTENT),
    Option("--response-takeover", "SIZE", "1M", size(64 * KIB, 1 << 30),
           "how much of a response the core takes over from the worker for a slow client", CONTENT),
    Option("--half-close", "WHICH", "probe", one_of("probe", "answer", "drop"),
           "a client that has closed its sending side: probe whether it is still there, "
           "answer it, or drop it", CONTENT),
    Option("--idle-timeout", "TIME", "120s", duration(SECOND),
           "how long a connection may stay open between requests", CONTENT),
    Option("--header-timeout", "TIME", "120s", duration(SECOND),
           "how long a request's line and fields may take", CONTENT),
    Option("--entity-timeout", "TIME", "120s", duration(SECOND),
           "how long the next part of a request's content may take", CONTENT),
    Option("--min-send-rate", "BYTES", "150", number(0, 1_000_000_000),
           "bytes per second that a client must take of its response; 0: any", CONTENT),
    Option("--max-field-length", "SIZE", "16K", size(256, 1 << 20),
           "longest field line of a request", CONTENT),
    Option("--max-request-bytes", "SIZE", "64K", size(512, 1 << 20),
           "largest request line and fields together", CONTENT),
    Option("--max-target-bytes", "SIZE", "32K", size(256, 1 << 20),
           "longest request target", CONTENT),
    Option("--max-field-count", "N", "128", number(8, 1024),
           "most field lines of a request", CONTENT),
    Option("--cache", "MODE", "public", one_of("off", "public", "rfc9111"),
           "which responses are kept and given again: public: those that say public or s-maxage; "
           "rfc9111: all that a shared cache may keep; or off", CACHE),
    Option("--cache-size", "SIZE", "64M", size(0, 1 << 44),
           "memory for kept responses, with all that belongs to them; 0: off", CACHE),
    Option("--cache-max-entry", "SIZE", "256K", size(1, 1 << 44),
           "largest content of a response that is kept", CACHE),
    Option("--cache-frequent-hits", "N/TIME", "1/10", frequent_hits,
           "keep a response when it was asked for N times within TIME", CACHE),
    Option("--cache-scavenge", "TIME", "120s", scavenge_period,
           "drop what nobody asked for within TIME; 0 or off: never", CACHE),
    Option("--cache-status", "on|off", "off", switch,
           "tell clients in a Cache-Status field what the cache did", CACHE),
    Option("--config", "FILE", "", optional_text,
           "sites, applications and pools, and everything else, from FILE (docs/configuration.md); "
           "without it and without an application: kernelq.toml, if there is one here", OPERATION),
    Option("--access-log", "FILE|-|none", "none", any_text,
           "a line per request to FILE, or to standard output (-)", OPERATION),
    Option("--log-level", "LEVEL", "info", log_level,
           "what the error log (standard error) shows: debug, info, warning or error", OPERATION),
    Option("--pid-file", "FILE", "", optional_text,
           "write the main process id to FILE", OPERATION),
    Option("--control", "PATH|auto|off", "auto", control_path,
           "the socket that `kernelq cache` talks to, for the server's own user and root; auto: "
           "named after the first --bind, in $RUNTIME_DIRECTORY (systemd), /run/kernelq (root), "
           "$XDG_RUNTIME_DIR/kernelq or /tmp/kernelq-UID", OPERATION),
    Option("--inspectable", "", "no", flag,
           "let debuggers and siblings of the same user look into service and workers (for "
           "debugging)", OPERATION),
    Option("--check", "", "no", flag,
           "read everything, load the applications, start nothing", OPERATION),
)
# fmt: on


def default_values() -> dict[str, Any]:
    """Every option's default, parsed by the option's own parser."""
    return {
        option.key: parse_option(option, option.default)
        if not option.repeatable
        else (parse_option(option, option.default),)
        for option in OPTIONS
    }
