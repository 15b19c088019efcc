"""`kernelq config show|example|schema`, and what other commands need to speak of a configuration
file.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from kernelq import log
from kernelq.columns import count
from kernelq.config import ServerSettings
from kernelq.configuration import ConfigurationErrors, read
from kernelq.words import Parser, complain, drop_output

DEFAULT_FILE = "kernelq.toml"
_NAMES_SHOWN = 8

_DESCRIPTION = """\
The configuration file of kernelq.

  kernelq config show       the file as it is understood: every key, and where its value comes from
  kernelq config example    a file to start from, with every key and what it does
  kernelq config schema     the JSON Schema of the file, for editors
"""


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="kernelq config", description=_DESCRIPTION)
    subjects = parser.add_subparsers(dest="do", required=True, metavar="show|example|schema")
    show = subjects.add_parser("show")
    show.add_argument("--config", metavar="FILE", help=f"[{DEFAULT_FILE}]")
    show.add_argument("--json", action="store_true", help="as JSON")
    subjects.add_parser("example")
    subjects.add_parser("schema")
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command; StartError says what is wrong."""
    words = make_parser().parse_args(arguments)
    try:
        if words.do == "show":
            _show(words.config or DEFAULT_FILE, words.json)
        else:
            from kernelq.configuration.example import example_text, schema_text

            print(example_text() if words.do == "example" else schema_text(), end="")
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
    return 0


def _show(file: str, is_json: bool) -> None:
    from kernelq.configuration.show import show_object, show_text

    configuration = read(file)
    for note in configuration.notes:
        complain(note)
    if is_json:
        print(json.dumps(show_object(configuration), indent=2))
    else:
        print(show_text(configuration), end="")


def find_file(application: str) -> str:
    """The file of the usual name, if there is one and no application is named; else nothing."""
    if application or not os.path.exists(DEFAULT_FILE):
        return ""
    log.info(f"no application is named: reading {DEFAULT_FILE}")
    return DEFAULT_FILE


def list_errors(found: ConfigurationErrors) -> int:
    """Everything that is wrong, a line each, as compilers write it."""
    for line in str(found).split("\n"):
        print(log.clean(line), file=sys.stderr)
    complain(count(len(found.lines), "error"))
    return found.status


def summarise(settings: ServerSettings) -> str:
    """What would be started, in one line for an application, and in several for a file."""
    pools, sites = settings.pools, settings.sites
    if not settings.config_file:
        where = ", ".join(str(one.endpoint) for one in sites[0].bindings)
        workers = count(pools[0].max_processes, "worker")
        return f"{sites[0].applications[0].app}, {workers}, on {where}"
    applications = sum(len(site.applications) for site in sites)
    lines = [
        f"{settings.config_file}: {count(len(sites), 'site')}, "
        f"{count(applications, 'application')}, {count(len(pools), 'pool')}"
    ]
    for site in sites[:_NAMES_SHOWN]:
        where = ", ".join(str(one) for one in site.bindings)
        lines.append(f"  site {site.name}: {where}")
    for pool in pools[:_NAMES_SHOWN]:
        user = f", user {pool.process.user}" if pool.process.user else ""
        lines.append(
            f"  pool {pool.name}: {count(len(pool.applications), 'application')}, "
            f"at most {count(pool.max_processes, 'worker')} with "
            f"{count(pool.core.threads, 'thread')}{user}"
        )
    if max(len(sites), len(pools)) > _NAMES_SHOWN:
        lines.append("  ...")
    return "\n".join(lines)
