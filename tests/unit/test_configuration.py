"""The configuration file as a whole: what it means, and everything that is wrong, said at once."""

import grp
import os
import pwd
import resource
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from kernelq.binding import Binding
from kernelq.config import ServerSettings
from kernelq.configuration import Configuration, ConfigurationErrors, load, read
from kernelq.units import HOUR, MINUTE

SITE = """
[[site]]
name = "one"
[[site.application]]
app = "kernelq.demo:application"
"""

Read = Callable[..., Configuration]
Errors = Callable[[str], list[str]]


@pytest.fixture
def read_text(tmp_path: Path) -> Read:
    def read_it(
        text: str, passed: tuple[Binding, ...] = (), environment: dict[str, str] | None = None
    ) -> Configuration:
        file = tmp_path / "kernelq.toml"
        file.write_text(dedent(text))
        return read(str(file), passed, environment)

    return read_it


@pytest.fixture
def errors(read_text: Read, tmp_path: Path) -> Errors:
    def list_errors(text: str) -> list[str]:
        with pytest.raises(ConfigurationErrors) as refused:
            read_text(text)
        return [line.removeprefix(f"{tmp_path}/kernelq.toml:") for line in refused.value.lines]

    return list_errors


def test_the_shape_of_the_beginning(read_text: Read, tmp_path: Path) -> None:
    (tmp_path / "srv").mkdir()
    settings = read_text("""
        [[pool]]
        name = "shop"
        max_processes = 2
        threads = 4
        directory = "srv"
        [pool.recycling]
        requests = 10000

        [[site]]
        name = "shop"
        bindings = ["127.0.0.1:8000:", "127.0.0.1:8000:shop.example"]
        [[site.application]]
        path = "/"
        app = "shop.wsgi:application"
        pool = "shop"
        """).settings
    (pool,), (site,) = settings.pools, settings.sites
    assert (pool.name, pool.max_processes, pool.core.threads) == ("shop", 2, 4)
    assert pool.core.name == "shop"
    assert pool.recycling.requests == 10000
    assert pool.recycling.time_ns == 29 * HOUR
    assert pool.idle_timeout_ns == 20 * MINUTE
    assert pool.applications == site.applications
    assert pool.directory == site.applications[0].directory == str(tmp_path / "srv")
    assert [str(one) for one in site.bindings] == ["127.0.0.1:8000:", "127.0.0.1:8000:shop.example"]
    assert settings.config_file == str(tmp_path / "kernelq.toml")
    assert (pool.index, site.applications[0].number) == (0, 0)


def test_the_least_that_can_be_said(read_text: Read, tmp_path: Path) -> None:
    settings = read_text(SITE).settings
    (pool,) = settings.pools
    assert pool.name == "default"
    assert pool.applications[0].pool == "default"
    assert pool.directory == str(tmp_path)
    assert [str(one) for one in settings.sites[0].bindings] == ["127.0.0.1:8000:"]


def test_an_only_pool_needs_no_mention(read_text: Read) -> None:
    settings = read_text('[[pool]]\nname = "p"\n' + SITE).settings
    assert settings.sites[0].applications[0].pool == "p"


def test_what_pools_have_in_common(read_text: Read) -> None:
    settings = read_text(
        """
        [defaults.pool]
        threads = 8
        process.environment = { A = "1", B = "1" }
        [defaults.pool.recycling]
        requests = 5
        [[pool]]
        name = "a"
        recycling.time = "1h"
        process.environment = { B = "2", C = "2" }
        [[pool]]
        name = "b"
        threads = 2
        recycling = { requests = 6 }
        """
        + SITE
        + 'pool = "a"'
    ).settings
    a, b = settings.pools
    assert (a.core.threads, b.core.threads) == (8, 2)
    assert (a.recycling.requests, b.recycling.requests) == (5, 6)
    assert (a.recycling.time_ns, b.recycling.time_ns) == (HOUR, 29 * HOUR)
    assert a.process.environment == (("A", "1"), ("B", "2"), ("C", "2"))
    assert b.process.environment == (("A", "1"), ("B", "1"))


def test_a_pool_that_always_runs_has_a_worker_that_stays(read_text: Read) -> None:
    configuration = read_text(
        '[[pool]]\nname = "p"\nstart_mode = "always_running"\nidle_timeout = "5m"\n' + SITE
    )
    (pool,) = configuration.settings.pools
    assert (pool.min_processes, pool.max_processes, pool.idle_timeout_ns) == (1, 1, 0)
    assert pool.core.is_needed
    (note,) = configuration.notes
    assert note.endswith("has no effect: workers of an always_running pool stay")


def test_users_come_from_the_server_unless_the_pool_names_one(read_text: Read) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may change user")
    settings = read_text(
        """
        [server]
        user = "1"
        group = "2"
        umask = "027"
        [[pool]]
        name = "a"
        [[pool]]
        name = "b"
        process = { user = "3", umask = "077", groups = ["4"] }
        """
        + SITE
        + 'pool = "a"'
    ).settings
    a, b = (pool.process for pool in settings.pools)
    assert (a.user, a.group, a.umask, a.groups) == ("1", "2", 0o27, None)
    assert (b.user, b.group, b.umask, b.groups) == ("3", "", 0o77, ("4",))


def test_paths_start_at_the_files_folder(read_text: Read, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    settings = read_text(
        """
        [server]
        control = "run/control"
        access_log = "logs/access"
        [[pool]]
        name = "p"
        process.writable = ["app"]
        """
        + SITE
        + 'directory = "app"'
    ).settings
    assert settings.control == str(tmp_path / "run/control")
    assert settings.access_log == str(tmp_path / "logs/access")
    assert settings.pools[0].process.writable == (str(tmp_path / "app"),)
    # Its only application's folder is the pool's.
    assert settings.pools[0].directory == str(tmp_path / "app")


def test_sockets_passed_by_systemd_go_to_sites_without_bindings(read_text: Read) -> None:
    passed = (Binding("fd", descriptor=3), Binding("fd", descriptor=4))
    text = '[[site]]\nname = "named"\nbindings = ["fd://3"]\n'
    text += '[[site.application]]\napp = "a:b"\n' + SITE
    first, second = read_text(text, passed).settings.sites
    assert [str(one) for one in first.bindings] == ["fd://3:"]
    assert [str(one) for one in second.bindings] == ["fd://4:"]


def test_load_gives_the_settings(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "kernelq.toml"
    file.write_text('[[pool]]\nname = "p"\n[[pool]]\nname = "q"\n' + SITE + 'pool = "p"\n')
    assert isinstance(load(str(file)), ServerSettings)
    assert capfd.readouterr().err.endswith('pool "q": no application names this pool\n')


# What is wrong.


def test_all_errors_at_once_in_the_order_of_the_file(errors: Errors) -> None:
    assert errors("""\
        [server]
        loops = 0
        isolaton_mode = "iis5"
        [[pool]]
        name = "shop"
        threads = "many"
        recycling.requests = -1
        [[pool]]
        threads = 2
        [[site]]
        name = "shop"
        [[site.application]]
        path = "/"
        app = "shop"
        """) == [
        '2: server.loops: found 0, allowed is a whole number from 1 to 64, or "auto"',
        "3: server.isolaton_mode: there is no such key in [server]; did you mean isolation_mode?",
        '6: pool "shop".threads: found "many", allowed is a whole number from 1 to 484',
        '7: pool "shop".recycling.requests: found -1, allowed is a whole number from 0 to '
        '2147483647, or "off"',
        '8: pool[2]: there is no name; needed is one such as name = "shop"',
        '14: site "shop".application "/".app: found "shop", allowed is MODULE:CALLABLE or '
        "MODULE:FACTORY(), such as app:application or project.wsgi:make_app()",
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[servr]\n", "1: servr: there is no such key in the file; did you mean server?"),
        ("[pools]\n", "1: pools: there is no such key in the file; did you mean pool?"),
        ("[server]\nthreads = 1", "2: server.threads: there is no such key in [server]; it belongs "
         "to [[pool]]"),
        ("[server]\nAppPoolQueueLength = 1", "2: server.AppPoolQueueLength: there is no such key "
         "in [server]; here it is queue_length in [[pool]]"),
        ('[[pool]]\nname = "p"\nAppPoolQueueLength = 1', '3: pool "p".AppPoolQueueLength: there is '
         "no such key in [[pool]]; here it is called queue_length"),
        ('[[pool]]\nname = "p"\nmaxProcesses = 1', '3: pool "p".maxProcesses: there is no such key '
         "in [[pool]]; here it is called max_processes"),
        ('[[pool]]\nname = "p"\nmax-processes = 1', '3: pool "p".max-processes: there is no such '
         "key in [[pool]]; did you mean max_processes?"),
        ('[[pool]]\nname = "p"\nqqq = 1', '3: pool "p".qqq: there is no such key in [[pool]]; '
         "`kernelq config example` shows all"),
        ("[cache]\nqqq = 1", "2: cache.qqq: there is no such key in [cache]; allowed are mode, "
         "size, max_entry, frequent_hits, frequent_period, scavenge, status"),
        ('[cache]\nmode = "pubic"', '2: cache.mode: found "pubic", allowed is "off" or "public" or '
         '"rfc9111"; did you mean "public"?'),
        ("[[server]]", "1: server: found [[server]], allowed is one table, [server]"),
        ("server = 3", "1: server: found 3, allowed is one table, [server]"),
        ('[pool]\nname = "p"', "1: pool: found [pool], allowed is [[pool]], with two brackets, "
         "once for each"),
        ("pool = [3]", "1: pool[1]: found 3, allowed is [[pool]], with two brackets, once for "
         "each"),
        ("[defaults]\npol = {}", "2: defaults.pol: there is no such key in [defaults]; did you "
         "mean pool?"),
        ('[defaults.pool]\nname = "x"', "2: defaults.pool.name: a name is each pool's own: it has "
         "no default"),
        ("[defaults.pool]\nthreads = 0", "2: defaults.pool.threads: found 0, allowed is a whole "
         "number from 1 to 484"),
        ('[[pool]]\nname = "p"\nmin_processes = 3\nmax_processes = 2', '3: pool "p".min_processes: '
         "min_processes 3 is more than max_processes 2"),
        ('[[pool]]\nname = "p"\nprocess.rlimits = { nofle = 3 }', '3: pool "p".process.rlimits.'
         "nofle: there is no such key in rlimits; did you mean nofile?"),
        ('[[pool]]\nname = "p"\nprocess.user = "no-such"', '3: pool "p".process.user: there is no '
         'user "no-such"'),
        ('[[pool]]\nname = "p"\nprocess.groups = ["0", "no-such"]', '3: pool "p".process.groups[2]:'
         ' there is no group "no-such"'),
        ('[[pool]]\nname = "p"\nprocess.read_only = ["/absent"]', '3: pool "p".process.read_only'
         '[1]: there is no file or folder "/absent"'),
        ('[[pool]]\nname = "p"\nprocess.python = "/etc/passwd"', '3: pool "p".process.python: found'
         ' "/etc/passwd", allowed is a Python interpreter that can be run'),
        ('[[pool]]\nname = "p"\ndirectory = "absent/x"', "directory that exists"),
        ('[[pool]]\nname = "p"\ncpu.affinity = "0-8000"', f"allowed are 0 to "
         f"{(os.cpu_count() or 1) - 1}: this machine has {os.cpu_count()}"),
    ],
)  # fmt: skip
def test_one_error(errors: Errors, text: str, error: str) -> None:
    (found,) = errors(text + SITE)
    assert found == error or (error in found and not error[0].isdigit())


def test_users_and_groups_that_have_come_meanwhile(
    read_text: Read, errors: Errors, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '[server]\nuser = "newcomer"\ngroup = "newcomers"\n' + SITE
    assert "there is no user" in errors(text)[0]
    assert "there is no group" in errors(text.replace("user = ", "# "))[0]
    monkeypatch.setattr("pwd.getpwnam", lambda name: pwd.getpwuid(os.geteuid()))
    monkeypatch.setattr("grp.getgrnam", lambda name: grp.getgrgid(os.getegid()))
    assert read_text(text).settings.user == "newcomer"


def test_what_only_root_may(errors: Errors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(os, "getegid", lambda: 4711)
    monkeypatch.setattr(os, "getgroups", lambda: [4711])
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (5, 5))
    assert errors(
        """\
        [server]
        user = "0"
        [[pool]]
        name = "p"
        [pool.process]
        group = "0"
        groups = ["0"]
        nice = -1
        rlimits = { nofile = 5, core = [0, 6] }
        """
        + SITE
    ) == [
        '2: server.user: no permission to become user "0": only root may change user or group',
        '6: pool "p".process.group: no permission to become group "0": only root may change user '
        "or group",
        '7: pool "p".process.groups: no permission: only root may choose groups',
        '8: pool "p".process.nice: found -1, allowed is 0 to 19 without root',
        '9: pool "p".process.rlimits.core: the hard limit here is 5, and only root may raise it',
    ]


def test_nothing_is_no_configuration(errors: Errors) -> None:
    (error,) = errors("")
    assert "there is no [[site]]; needed is at least one" in error


def test_names_are_given_once(errors: Errors) -> None:
    assert errors("""\
        [[pool]]
        name = "p"
        [[pool]]
        name = "p"
        [[site]]
        name = "s"
        bindings = "*:1"
        [[site.application]]
        app = "a:b"
        pool = "p"
        [[site]]
        name = "s"
        bindings = "*:2"
        [[site.application]]
        app = "a:b"
        path = ["/", "/x", "/x/"]
        pool = "p"
        """) == [
        '4: pool "p".name: pool "p" is there already (the other: line 2)',
        '12: site "s".name: site "s" is there already (the other: line 6)',
        '16: site "s".application "/".path[3]: an application of path "/x" is there already '
        "(the other: line 16)",
    ]


def test_pools_that_applications_name_exist(errors: Errors) -> None:
    assert errors("""\
        [[pool]]
        name = "shop"
        [[pool]]
        name = "blog"
        [[site]]
        name = "s"
        [[site.application]]
        app = "a:b"
        pool = "shpo"
        [[site.application]]
        path = "/x"
        app = "a:b"
        pool = "zzz"
        [[site.application]]
        path = "/y"
        app = "a:b"
        """) == [
        '9: site "s".application "/".pool: there is no pool "shpo"; did you mean "shop"?',
        '13: site "s".application "/x".pool: there is no pool "zzz"; there are shop, blog',
        '14: site "s".application "/y": there is no pool; allowed are shop, blog',
    ]


def test_a_pool_whose_name_is_wrong_is_complained_of_once(errors: Errors) -> None:
    (error,) = errors('[[pool]]\nname = "a b"\n' + SITE + 'pool = "a b"')
    assert 'found "a b", allowed is 1 to 64 letters' in error


def test_bindings_that_exclude_each_other(errors: Errors) -> None:
    (error,) = errors("""\
        [[site]]
        name = "a"
        bindings = ["*:80:x.example", "*:80:"]
        [[site.application]]
        app = "a:b"
        [[site]]
        name = "b"
        bindings = ["*:81:", "*:80:X.Example"]
        [[site.application]]
        app = "a:b"
        """)
    assert error.startswith('8: site "b".bindings')
    assert "'a' (*:80:x.example)" in error
    assert "'b' (*:80:x.example)" in error
    assert error.endswith("(the other: line 3)")


def test_applications_of_one_pool_share_their_variables(errors: Errors) -> None:
    text = """\
        [[site]]
        name = "s"
        [[site.application]]
        app = "a:b"
        environment = { A = "1", B = "1" }
        [[site.application]]
        path = ["/x", "/y"]
        app = "a:c"
        environment = { A = "1", B = "2" }
        """
    assert errors(text) == [
        '9: site "s".application "/x".environment.B: another application of pool "default" sets B '
        "to another value, and they share a process; allowed is one value, or a pool for each "
        "(the other: line 5)"
    ]


def test_isolation_needs_its_mode(errors: Errors) -> None:
    (error,) = errors(SITE + 'isolation = "pooled"')
    assert 'has a meaning only with isolation_mode = "iis5"' in error


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a = 1\nb 2", ":2:3: Expected '=' after a key in a key/value pair"),
        ("[a]\n[a]", ":2:3: Cannot declare ('a',) twice"),
        ("a = [1,\n", ":2: Invalid value (at the end of the file)"),
    ],
)
def test_errors_of_syntax_say_where(text: str, error: str, tmp_path: Path) -> None:
    file = tmp_path / "k.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationErrors) as refused:
        read(str(file))
    assert str(refused.value) == f"{file}{error}"


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (5000 * "9", "there is a number of too many digits"),
        (9000 * "[" + 9000 * "]", "arrays or tables are nested too deeply"),
        (400 * "9", "found a number of 1329 bits, allowed is"),
        ("0x" + 5000 * "f", "found a number of 20000 bits, allowed is"),
        (f'"{5000 * "9"}"', 'found "9999'),
    ],
)
def test_values_without_measure(errors: Errors, value: str, error: str) -> None:
    for key in ("server.loops", "server.drain_delay", "server.content_memory", "server.user"):
        (found,) = errors(f"{key} = {value}\n" + SITE)
        assert error in found or "there is no user" in found
    for key in ("environment.A", "rlimits.core"):
        text = f'[[pool]]\nname = "p"\nprocess.{key} = {value}\n' + SITE
        if key == "rlimits.core" or value[0] != '"':
            (found,) = errors(text)
            assert error in found


def test_nesting_of_any_depth_is_refused_in_words(tmp_path: Path) -> None:
    file = tmp_path / "k.toml"
    for depth in range(5, 600, 37):
        for opening, closing in (("[", "]"), ("{a=", "}")):
            for key in ("server.loops", "pool", "site"):
                file.write_text(f"{key} = {depth * opening}1{depth * closing}\n")
                with pytest.raises(ConfigurationErrors):
                    read(str(file))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationErrors, match="cannot be read: No such file"):
        read(str(tmp_path / "absent.toml"))
    with pytest.raises(ConfigurationErrors, match="cannot be read: Is a directory"):
        read(str(tmp_path))
    file = tmp_path / "latin.toml"
    file.write_bytes(b"# x\n# \xe4\n")
    with pytest.raises(ConfigurationErrors, match=r"latin\.toml:2: this is no text in UTF-8"):
        read(str(file))


def test_very_many_errors_are_not_all_shown(errors: Errors, read_text: Read) -> None:
    text = "[server]\n" + "".join(f"qqq{n} = 1\n" for n in range(300)) + SITE
    assert len(errors(text)) == 300
    with pytest.raises(ConfigurationErrors) as refused:
        read_text(text)
    assert str(refused.value).endswith("\n200 further errors are not shown")


def test_long_values_are_cut(errors: Errors) -> None:
    (error,) = errors(f'[server]\ncontent = "{1000 * "x"}"\n' + SITE)
    assert len(error) < 200
