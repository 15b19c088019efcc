"""The command `kernelq`: options, help, and every way in which a start can be refused."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from kernelq import __version__, linux, log
from kernelq.binding import Binding, close_listeners, open_bindings, take_passed_bindings
from kernelq.config import ServerSettings, make_settings
from kernelq.control_socket import open_control
from kernelq.errors import OptionError, StartError
from kernelq.identity import Identity, find_identity, require_interpreter
from kernelq.notify import Notifier
from kernelq.options import OPTIONS, Option, default_values, parse_option
from kernelq.subjects import SUBJECTS, overview

_DESCRIPTION = """\
Serve a WSGI application (PEP 3333) from worker processes whose death no client notices.

  kernelq app:application                      serve `application` of app.py on 127.0.0.1:8000
  kernelq project.wsgi:application --bind 0.0.0.0:8080 --workers 4
  kernelq 'shop:make_app("test")'              call a factory, with literal arguments
  kernelq                                      without an application: a page shows how it works

commands that talk to a running server (each has its own --help):
"""

_EPILOG = """\
signals to the main process:
  TERM, INT   finish what is queued and running, then end (a second INT, or QUIT: now)
  HUP         load the application's new code in new workers, then let the old ones finish
  USR1        open the access log again (after it was rotated)

times are 30, 30s, 500ms, 2m, 1h; sizes are bytes or 64K, 1M, 1G.
"""


class _Parser(argparse.ArgumentParser):
    """Errors in one line, and nothing guessed from abbreviations."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(message)


def make_parser() -> argparse.ArgumentParser:
    """The parser that the table of options describes. Values stay text."""
    parser = _Parser(
        prog="kernelq",
        description=_DESCRIPTION + overview(),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("words", nargs="*", metavar="MODULE:CALLABLE", help="the application")
    parser.add_argument("--version", action="version", version=f"kernelq {__version__}")
    groups: dict[str, Any] = {}
    for option in OPTIONS:
        group = groups.get(option.group)
        if group is None:
            group = groups[option.group] = parser.add_argument_group(option.group)
        _add_option(group, option)
    return parser


def _add_option(group: Any, option: Option) -> None:
    words = option.help.replace("%", "%%")
    if option.is_flag:
        group.add_argument(option.name, action="store_const", const="yes", help=words)
        return
    if option.default:
        words += f" [{option.default}]"
    action = "append" if option.repeatable else "store"
    group.add_argument(option.name, metavar=option.metavar, action=action, help=words)


def read_command(arguments: Sequence[str]) -> tuple[ServerSettings, bool]:
    """The settings, and whether a --bind was given. OptionError says what cannot be understood."""
    namespace = make_parser().parse_intermixed_args(arguments)
    values = default_values()
    for option in OPTIONS:
        given = getattr(namespace, option.key)
        if given is None:
            continue
        if option.repeatable:
            values[option.key] = tuple(parse_option(option, text) for text in given)
        else:
            values[option.key] = parse_option(option, given)
    application = _application_of(namespace.words)
    settings = make_settings(application, values, linux.descriptor_soft_limit())
    return settings, namespace.bind is not None


def _application_of(words: list[str]) -> str:
    if words and words[0] == "serve":
        words = words[1:]
    if len(words) > 1:
        raise OptionError(f"found {' '.join(words)!r}, allowed is one application")
    return words[0] if words else ""


def check(settings: ServerSettings, identity: Identity) -> int:
    """Load everything, start nothing. The application is loaded by a child, as the user it will run
    as.
    """
    from kernelq.supervisor import fork_process

    __import__("kernelq._core")
    pool = settings.pools[0]

    def load() -> int:
        from kernelq import worker
        from kernelq.letters import pack_settings, unpack_settings

        identity.assume()
        try:
            worker.load_application(unpack_settings(pack_settings(pool)))
        except StartError as found:
            _complain(str(found))
            return found.status
        return 0

    _, status = os.waitpid(fork_process(load, []), 0)
    if status == 0:
        where = ", ".join(str(binding) for binding in settings.bindings)
        print(f"kernelq: all is well: {pool.application}, {pool.workers} workers, on {where}")
    return os.waitstatus_to_exitcode(status)


def start(settings: ServerSettings, identity: Identity) -> int:
    """Open the sockets while it is still allowed, then run."""
    from kernelq.supervisor import supervise

    _require_descriptors(settings)
    if os.geteuid() == 0 and not settings.user:
        log.warning("running the application as root: --user NAME is advised")
    listeners = open_bindings(settings.bindings, identity.owner, settings.umask)
    try:
        control_listener = open_control(settings.control, listeners, identity.owner)
    except StartError:
        close_listeners(listeners)
        raise
    notifier = Notifier(os.environ)  # type: ignore[arg-type]
    return supervise(settings, listeners, control_listener, identity, notifier)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives the status to end with."""
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in SUBJECTS:
        from kernelq import commands

        return commands.main(words)
    try:
        settings, has_binding = read_command(words)
        log.set_threshold(settings.log_level)
        linux.check_kernel()
        identity = find_identity(settings.user, settings.group)
        require_interpreter(identity)
        settings = _with_passed_bindings(settings, has_binding)
        return check(settings, identity) if settings.check else start(settings, identity)
    except StartError as found:
        _complain(str(found))
        if isinstance(found, OptionError):
            print("kernelq: `kernelq --help` lists what is allowed", file=sys.stderr)
        return found.status
    except KeyboardInterrupt:
        return 130


def _with_passed_bindings(settings: ServerSettings, has_binding: bool) -> ServerSettings:
    from dataclasses import replace

    passed = take_passed_bindings(os.environ)  # type: ignore[arg-type]
    if not passed:
        return settings
    named: tuple[Binding, ...] = settings.bindings if has_binding else ()
    return replace(settings, bindings=(*passed, *named))


def _require_descriptors(settings: ServerSettings) -> None:
    core, pool = settings.core, settings.pools[0]
    per_worker = 6 + 3 * core.loops  # channel, control link, pidfds
    own = 64 + 8 * core.loops + len(settings.bindings) + 2 * pool.workers * per_worker
    linux.require_descriptors(own + max(core.max_connections, 64))


def _complain(text: str) -> None:
    print(f"kernelq: {log.clean(text)}", file=sys.stderr)
