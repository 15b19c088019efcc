"""What is made from the table and from a file: secrets by reference, `config show`, the example,
the JSON Schema.
"""

import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import jsonschema
import pytest
import test_configuration_keys as keys
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernelq import isolation
from kernelq.configuration import Configuration, ConfigurationErrors, read, table
from kernelq.configuration.example import example_text, make_schema
from kernelq.configuration.show import show_object, show_text
from kernelq.configuration.toml import toml_value

ROOT = Path(__file__).resolve().parents[2]
SITE = keys.write(table.SITE, table.SITE.keys[0], '"default"') + "\n"
FULL = """
    [server]
    drain_delay = "5s"
    [defaults.pool]
    threads = 8
    process.environment = { A = "1", SECRET = { env = "SECRET" } }
    [[pool]]
    name = "shop"
    max_processes = 2
    recycling.schedule = ["03:30"]
    rapid_fail.action = ["/bin/true", { env = "SECRET" }]
    process.rlimits = { core = [0, "1M"], nofile = 64 }
    process.environment = { B = { file = "secret" } }
    [[pool]]
    name = "blog"
    start_mode = "always_running"
    load_balancer_capabilities = "tcp"
    cpu = { limit = 50, affinity = "0" }
    [[site]]
    name = "shop"
    bindings = ["127.0.0.1:8000:", "127.0.0.1:8000:*.shop.example"]
    [[site.application]]
    path = ["/", "/shop"]
    app = { env = "APP" }
    pool = "shop"
    [[site.application]]
    path = "/blog"
    app = "a:b"
    pool = "blog"
    warm_up = ["/health"]
    environment = { "odd name" = "\\u0001\\"" }
    """
ENVIRONMENT = {"SECRET": "hidden-1", "APP": "hidden_2:x"}
Read = Callable[[str], Configuration]


@pytest.fixture
def read_text(tmp_path: Path) -> Read:
    (tmp_path / "secret").write_text("hidden-3\n")

    def read_it(text: str) -> Configuration:
        file = tmp_path / "kernelq.toml"
        file.write_text(dedent(text))
        return read(str(file), (), ENVIRONMENT)

    return read_it


# Values that stand elsewhere.


def test_references_are_followed(read_text: Read) -> None:
    settings = read_text(FULL).settings
    environment = dict(settings.pools[0].process.environment)
    assert environment == {"A": "1", "SECRET": "hidden-1", "B": "hidden-3"}
    assert settings.pools[0].rapid_fail.action == ("/bin/true", "hidden-1")
    assert settings.sites[0].applications[0].app == "hidden_2:x"


def test_one_newline_at_a_files_end_is_dropped(read_text: Read, tmp_path: Path) -> None:
    for content, meaning in (("a", "a"), ("a\n", "a"), ("a\n\n", "a\n"), ("a\r\n", "a"), ("", "")):
        (tmp_path / "x").write_bytes(content.encode())
        settings = read_text(SITE + 'environment = { X = { file = "x" } }').settings
        assert settings.sites[0].applications[0].environment == (("X", meaning),)


def test_numbers_may_stand_elsewhere_too(read_text: Read, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("7\n")
    assert read_text('[server]\nloops = { file = "x" }\n' + SITE).settings.core.loops == 7


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ('{ env = "ABSENT" }', "the environment variable ABSENT is not set"),
        ('{ file = "/absent" }', "the file /absent cannot be read: No such file or directory"),
        ('{ file = "/" }', "the file / cannot be read: Is a directory"),
        ('{ file = "bytes" }', "/bytes is no text in UTF-8"),
        ('{ file = "long" }', "/long is longer than 65536 bytes"),
        ('{ file = "a", env = "b" }', "found both file and env, allowed is { file ="),
        ("{ env = 1 }", "found no name in env, allowed is"),
        ('{ file = "" }', "found no name in file, allowed is"),
        ('{ envi = "A" }', "found a table, allowed is"),
        ("{}", "found an empty table, allowed is"),
    ],
)
def test_references_that_lead_nowhere(
    read_text: Read, tmp_path: Path, value: str, error: str
) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff")
    (tmp_path / "long").write_text(65537 * "x")
    for place in ("pid_file", "user"):
        with pytest.raises(ConfigurationErrors) as refused:
            read_text(f"[server]\n{place} = {value}\n" + SITE)
        (line,) = refused.value.lines
        assert f"kernelq.toml:2: server.{place}: " in line
        assert error in line


@pytest.mark.parametrize(("section", "key"), keys.KEYS, ids=keys.IDS)
def test_errors_never_show_what_a_reference_gave(
    section: table.Section, key: table.Key, tmp_path: Path
) -> None:
    """The secret is no good value of any key but those that take every text."""
    secret = "se cret%2e$"
    file = tmp_path / "kernelq.toml"
    value = '{ env = "S" }'
    if key.kind.entry is not None:
        value = f"{{ core = {value} }}"
    for written in (value, f"[{value}, {value}]") if key.kind.item else (value,):
        file.write_text(keys.write(section, key, written))
        refused = ""
        try:
            read(str(file), (), {"S": secret})
        except ConfigurationErrors as found:
            refused = str(found)
        assert secret not in refused


# Show.


def test_everything_is_shown_with_its_source(read_text: Read, tmp_path: Path) -> None:
    text = show_text(read_text(FULL))
    lines = {" ".join(line.split()) for line in text.splitlines()}
    file = tmp_path / "kernelq.toml"
    for expected in (
        f'drain_delay = "5s" # {file}:3',
        'graceful_timeout = "30s" # default',
        f"[[pool]] # {file}:7",
        f"threads = 8 # {file}:5",
        f"max_processes = 2 # {file}:9",
        'idle_timeout = "off" # default: 20m; off when always_running',
        f"rlimits = {{ core = [0, 1048576], nofile = 64 }} # {file}:12",
        f'app = {{ env = "APP" }} # {file}:24, env APP',
        f'schedule = ["03:30"] # {file}:10',
        f"affinity = [0] # {file}:18",
        f'warm_up = ["/health"] # {file}:30',
    ):
        assert expected in lines, expected
    for section, key in keys.KEYS:
        assert any(line.lstrip("# ").startswith(key.name) for line in lines), section.name


def test_what_references_gave_is_not_shown(read_text: Read, tmp_path: Path) -> None:
    configuration = read_text(FULL)
    for text in (show_text(configuration), json.dumps(show_object(configuration))):
        assert "hidden" not in text
    text = show_text(configuration)
    assert 'environment = { A = "1", SECRET = { env = "SECRET" }, B = { file = "' in text
    assert f"env SECRET, file {tmp_path}/secret\n" in text
    assert 'action = ["/bin/true", { env = "SECRET" }]' in text


def test_what_is_shown_means_the_same(read_text: Read, tmp_path: Path) -> None:
    first = read_text(FULL)
    second = read_text(show_text(first))
    assert second.settings == first.settings
    assert second.notes == ()
    assert read_text(show_text(second)).settings == first.settings


def test_shown_as_json(read_text: Read, tmp_path: Path) -> None:
    shown = show_object(read_text(FULL))
    file = tmp_path / "kernelq.toml"
    assert shown["server"]["loops"]["source"] == "default: auto"
    assert shown["pool"][0]["threads"] == {"value": 8, "source": f"{file}:5"}
    assert shown["pool"][1]["recycling"]["time"] == {"value": "29h", "source": "default"}
    assert shown["pool"][0]["process"]["groups"]["value"] is None
    assert [one["path"]["value"] for one in shown["site"][0]["application"]] == [
        ["/", "/shop"],
        ["/blog"],
    ]


def good_values(section: table.Section) -> st.SearchStrategy[dict[str, str]]:
    """Some keys of a section, as TOML."""
    names = [key.name for key in section.keys if key.name not in UNFREE]
    cases = {name: [text for text, _ in keys.CASES[f"{section.name}.{name}"][0]] for name in names}
    return st.fixed_dictionaries(
        {}, optional={name: st.sampled_from(texts) for name, texts in cases.items() if texts}
    )


# What must fit to the rest of the file, or is its own test.
UNFREE = {"name", "path", "app", "pool", "bindings", "isolation", "min_processes"}
POOL = st.tuples(*(good_values(section) for section in (table.POOL, *table.POOL_PARTS)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(*(good_values(one) for one in (table.SERVER, table.LIMITS, table.CACHE))),
    POOL,
    st.lists(POOL, min_size=1, max_size=3),
    good_values(table.SITE),
    st.lists(good_values(table.APPLICATION), min_size=1, max_size=3),
)
def test_whatever_is_shown_means_the_same(
    read_text: Read, plain: Any, common: Any, pools: Any, site: Any, applications: Any
) -> None:
    lines: list[str] = []

    def add(heading: str, values: dict[str, str], **more: str) -> None:
        lines.append(heading)
        lines.extend(f"{name} = {text}" for name, text in {**values, **more}.items())

    for section, values in zip((table.SERVER, table.LIMITS, table.CACHE), plain, strict=True):
        add(f"[{section.name}]", values)
    for section, values in zip((table.POOL, *table.POOL_PARTS), common, strict=True):
        add(f"[defaults.{section.name}]", values)
    for number, pool in enumerate(pools):
        add("[[pool]]", pool[0], name=f'"pool{number}"')
        for section, values in zip(table.POOL_PARTS, pool[1:], strict=True):
            add(f"[{section.name}]", values)
    add("[[site]]", site, name='"site"', bindings='["*:80:", "*:80:x"]')
    for number, values in enumerate(applications):
        target = f'["/{number}", "/x/{number}"]'
        add("[[site.application]]", values, app='"a:b"', pool='"pool0"', path=target)
    first = read_text("\n".join(lines))
    second = read_text(show_text(first))
    assert second.settings == first.settings
    assert show_object(second).keys() == show_object(first).keys()


# IIS 5.0 isolation mode.

IIS5 = """
    [server]
    isolation_mode = "iis5"
    [defaults.pool]
    threads = 3
    recycling.requests = 5
    [[pool]]
    name = "unused"
    [[site]]
    name = "a"
    bindings = "*:80:a"
    [[site.application]]
    app = "m:low"
    pool = "unused"
    [[site.application]]
    path = "/medium"
    app = "m:medium"
    isolation = "pooled"
    [[site.application]]
    path = ["/high", "/h"]
    app = "m:high"
    isolation = "isolated"
    [[site]]
    name = "b"
    bindings = "*:80:b"
    [[site.application]]
    app = "m:low2"
    [[site.application]]
    path = "/medium"
    app = "m:medium2"
    isolation = "pooled"
    [[site.application]]
    path = "/high"
    app = "m:high2"
    isolation = "isolated"
    """


def test_iis5_mode_has_hosts_in_place_of_pools(read_text: Read) -> None:
    configuration = read_text(IIS5)
    pools = configuration.settings.pools
    carried = [[one.app for one in pool.applications] for pool in pools]
    assert carried == [
        ["m:low", "m:low2"],
        ["m:medium", "m:medium2"],
        ["m:high", "m:high"],
        ["m:high2"],
    ]
    assert [pool.name for pool in pools[:2]] == [isolation.HOST, isolation.POOLED_HOST]
    assert len({pool.name for pool in pools}) == 4
    for pool in pools:
        assert all(one.pool == pool.name == pool.core.name for one in pool.applications)
        assert (pool.min_processes, pool.max_processes) == (1, 1)
        assert (pool.start_mode, pool.core.is_needed) == ("always_running", True)
        assert not pool.is_managed
        assert pool.core.threads == 3
        assert pool.recycling.requests == pool.recycling.time_ns == 0
        assert pool.rapid_fail.max_crashes == pool.idle_timeout_ns == 0
    notes = [note.partition(": ")[2] for note in configuration.notes]
    assert notes == [
        'defaults.pool.recycling: has no effect: isolation_mode is "iis5"',
        'pool "unused": this pool is not used: isolation_mode is "iis5"',
    ]


def test_iis5_mode_is_shown(read_text: Read) -> None:
    text = show_text(read_text(IIS5))
    assert 'name = "inetinfo"                            # isolation_mode "iis5"' in text
    assert 'requests = "off"                             # isolation_mode "iis5"' in text


@pytest.mark.parametrize("path", ["/", "/" + 300 * "x", "/ä b/c", "/a.b", "/a-b"])
def test_names_of_hosts_are_names_of_pools(path: str) -> None:
    name = isolation.host_name("isolated", "site", path)
    assert table.POOL.keys[0].kind.understand(name) == name
    assert name != isolation.host_name("isolated", "site", path + "y")


# The example and the schema.


def test_the_example_can_be_used_as_it_is(read_text: Read) -> None:
    configuration = read_text(example_text())
    assert configuration.notes == ()
    assert [pool.name for pool in configuration.settings.pools] == ["shop"]


def test_the_example_has_every_key_and_its_examples_are_right(tmp_path: Path) -> None:
    lines = example_text().splitlines()
    assert max(map(len, lines)) <= 100
    heading = ""
    names = set()
    for line in lines:
        heading = line.strip("[]") if line.startswith("[") else heading
        name, equals, value = line.removeprefix("# ").partition(" = ")
        if equals and f"{heading}.{name}" in keys.IDS:
            names.add(f"{heading}.{name}")
            toml_value(value)
    assert sorted(names) == sorted(keys.IDS)


SCHEMA = make_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def is_valid(text: str) -> bool:
    # Clock times are TOML's own; a schema sees what editors make of them.
    plain: Any = json.loads(json.dumps(tomllib.loads(text), default=str))
    return bool(VALIDATOR.is_valid(plain))


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("text", [FULL, IIS5, example_text()], ids=["full", "iis5", "example"])
def test_whole_files_are_valid(text: str) -> None:
    assert is_valid(dedent(text))


@pytest.mark.parametrize(("section", "key"), keys.KEYS, ids=keys.IDS)
def test_the_schema_takes_what_the_checker_takes(section: table.Section, key: table.Key) -> None:
    for text, _ in keys.CASES[f"{section.name}.{key.name}"][0]:
        # Numbers and truth may come as texts, from references; in a file they need no quotes.
        if not (text.strip('"').isdigit() and text[0] == '"') and text != '"on"':
            assert is_valid(keys.write(section, key, text)), text
    assert not is_valid(keys.write(section, key, "[[[]]]"))
    assert not is_valid(keys.write(section, key, '{ files = "x", fiel = { } }'))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[servr]\n" + SITE,
        "[server]\nloop = 1\n" + SITE,
        '[server]\nmode = "x"\n' + SITE,
        "[server]\nloops = 0\n" + SITE,
        '[cache]\nmode = "pubic"\n' + SITE,
        "[[pool]]\nthreads = 1\n" + SITE,
        "[[site]]\nname = 'a'\n",
        '[defaults.pool]\nname = "x"\n' + SITE,
        '[[pool]]\nname = "x"\n[pool.process]\nrlimits = { nofle = 1 }\n' + SITE,
        '[server]\nuser = { file = "a", env = "b" }\n' + SITE,
        SITE + "path = []\n",
        SITE.replace("[[site.", "bindings = []\n[[site."),
    ],
)
def test_the_schema_refuses(text: str) -> None:
    assert not is_valid(text)


def test_options_of_the_command_line_have_a_place_in_the_file() -> None:
    from kernelq.options import OPTIONS

    homeless = {option.name for option in OPTIONS if not table.key_of_option(option.name)}
    assert homeless == {"--config", "--check"}


def test_references_follow_the_servers_environment(tmp_path: Path) -> None:
    file = tmp_path / "kernelq.toml"
    file.write_text(SITE + 'environment = { X = { env = "HOME" } }')
    assert read(str(file)).settings.sites[0].applications[0].environment == (
        ("X", os.environ["HOME"]),
    )
