"""`kernelq` without a running server: options, help, and every reason why a start is refused."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from kernelq import __version__, config_command, linux, log
from kernelq.binding import Binding, take_passed_bindings
from kernelq.config import ServerSettings, make_settings
from kernelq.configuration import ConfigurationErrors, load
from kernelq.configuration.table import key_of_option
from kernelq.endpoints import Given
from kernelq.errors import BAD_OPTION, OptionError, StartError
from kernelq.identity import find_identity, require_interpreter
from kernelq.options import OPTIONS, Option, default_values, parse_option
from kernelq.sites import find_sockets
from kernelq.start import open_passed, open_start, passed_names
from kernelq.subjects import overview
from kernelq.upgrade import Origin, find_origin
from kernelq.words import Parser, complain

_DESCRIPTION = """\
Serve WSGI applications (PEP 3333) from worker processes whose death no client notices.

  kernelq app:application                      serve `application` of app.py on 127.0.0.1:8000
  kernelq project.wsgi:application --bind 0.0.0.0:8080 --workers 4
  kernelq 'shop:make_app("test")'              call a factory, with literal arguments
  kernelq --config kernelq.toml                sites, applications and pools, as the file says
  kernelq                                      kernelq.toml of this folder; if there is none, a
                                               page that shows how it works
  kernelq check                                read everything, load the applications, start nothing
  kernelq config show|example|schema           the file as it is understood; one to start from

commands that talk to a running server (each has its own --help):
"""

_EPILOG = """\
signals to the main process:
  TERM, INT   finish what is queued and running, then end (a second INT, or QUIT: now)
  HUP         apply what has changed in the file, as `kernelq reload`; without a file, load the
              application's new code in new workers, then let the old ones finish
  USR1        open the access log again (after it was rotated)
  USR2        hand over to the kernelq that is installed now, as `kernelq upgrade`

times are 30, 30s, 500ms, 2m, 1h; sizes are bytes or 64K, 1M, 1G.
"""

# Options that may stand beside a configuration file.
_BESIDE_A_FILE = ("--config", "--check")


def make_parser() -> argparse.ArgumentParser:
    """The parser that the table of options describes. Values stay text."""
    parser = Parser(prog="kernelq", description=_DESCRIPTION + overview(), epilog=_EPILOG)
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


def read_command(
    arguments: Sequence[str], passed: Sequence[Binding] = (), finds_file: bool = True
) -> ServerSettings:
    """The settings that the words on the command line mean, of a file or of their own. `passed` are
    the listening sockets that came from systemd; `finds_file`: without an application and a file,
    look for the usual one. StartError says what cannot be understood.
    """
    namespace = make_parser().parse_intermixed_args(arguments)
    application = _application_of(namespace.words)
    file = namespace.config or ""
    if namespace.config == "":
        raise OptionError("--config: found '', allowed is the name of a file")
    if finds_file and not file:
        file = config_command.find_file(application)
    if file:
        _refuse_beside_a_file(namespace, application, file)
        return replace(load(file, passed), check=namespace.check is not None)
    values = default_values()
    for option in OPTIONS:
        given = getattr(namespace, option.key)
        if given is None:
            continue
        if option.repeatable:
            values[option.key] = tuple(parse_option(option, text) for text in given)
        else:
            values[option.key] = parse_option(option, given)
    if passed:
        values["bind"] = (*passed, *(values["bind"] if namespace.bind is not None else ()))
    return make_settings(application, values, linux.descriptor_soft_limit())


def _application_of(words: list[str]) -> str:
    if words and words[0] == "serve":
        words = words[1:]
    if len(words) > 1:
        raise OptionError(f"found {' '.join(words)!r}, allowed is one application")
    return words[0] if words else ""


def _refuse_beside_a_file(namespace: argparse.Namespace, application: str, file: str) -> None:
    """A file says everything: what stands beside it would be heard by nobody."""
    wrong = [f"the application {application} (app in [[site.application]])"] if application else []
    for option in OPTIONS:
        if getattr(namespace, option.key) is not None and option.name not in _BESIDE_A_FILE:
            keys = [f"{key.name} in {section.heading}" for section, key in
                    key_of_option(option.name)]  # fmt: skip
            wrong.append(f"{option.name} ({' and '.join(keys)})")
    if wrong:
        why = "" if namespace.config else ", which is used because no application is named"
        raise OptionError(f"{', '.join(wrong)}: this stands in {file}{why}")


def check(settings: ServerSettings) -> int:
    """Load everything, start nothing: every application is loaded by a process like its workers."""
    from kernelq.trial import try_pools

    _sockets_of(settings)
    __import__("kernelq._core")
    errors = try_pools(settings)
    for error in errors:
        complain(error)
    if errors:
        return BAD_OPTION
    print(f"kernelq: all is well: {config_command.summarise(settings)}")
    return 0


def start(settings: ServerSettings, arguments: Sequence[str], given: Given, origin: Origin) -> int:
    """Open the sockets while it is still allowed, then run."""
    from kernelq.supervisor import supervise

    _require_descriptors(settings)
    if os.geteuid() == 0 and not all(pool.process.user for pool in settings.pools):
        log.warning("running the application as root: --user NAME is advised")
    identity = find_identity(settings.user, settings.group)
    require_interpreter(identity)
    passed = passed_names(given)
    again = reload_of(settings, arguments, passed)
    return supervise(open_start(settings, again, identity, given, origin))


def reload_of(
    settings: ServerSettings, arguments: Sequence[str], passed: Sequence[Binding]
) -> Callable[[], ServerSettings]:
    """What reads the settings once more: from where they came the first time, and from nowhere else
    even if a file of the usual name has come or gone.
    """
    if settings.config_file:
        return partial(load, settings.config_file, passed)
    return partial(read_command, arguments, passed, finds_file=False)


def _sockets_of(settings: ServerSettings) -> tuple[Binding, ...]:
    try:
        return find_sockets(settings.sites)
    except ValueError as found:
        raise StartError(str(found)) from None


def main(words: Sequence[str]) -> int:
    """Every command that needs no running server; gives the status to end with."""
    try:
        if words and words[0] == "config":
            return config_command.main(words[1:])
        if words and words[0] == "check":
            words = [*words[1:], "--check"]
        origin = find_origin(os.environ)
        passed = take_passed_bindings(os.environ) or passed_names(origin.given)
        settings = read_command(words, passed)
        log.set_threshold(settings.log_level)
        linux.check_kernel()
        if settings.check:
            return check(settings)
        given = origin.given or open_passed(passed)
        return start(settings, words, given, origin)
    except ConfigurationErrors as found:
        return config_command.list_errors(found)
    except StartError as found:
        complain(str(found))
        if isinstance(found, OptionError):
            print("kernelq: `kernelq --help` lists what is allowed", file=sys.stderr)
        return found.status
    except KeyboardInterrupt:
        return 130


def _require_descriptors(settings: ServerSettings) -> None:
    core = settings.core
    per_worker = 6 + 3 * core.loops  # channel, control link, pidfds
    workers = sum(pool.max_processes for pool in settings.pools)
    own = 64 + 8 * core.loops + len(_sockets_of(settings)) + 2 * workers * per_worker
    linux.require_descriptors(own + max(core.max_connections, 64))
