"""The command line and the configuration file: which is used, what `check` and `config` say."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from kernelq import cli, trial
from kernelq.config import DEMO_APPLICATION, ProcessSettings
from kernelq.configuration import ConfigurationErrors
from kernelq.errors import OptionError

ROOT = Path(__file__).resolve().parents[2]
FILE = """\
[[pool]]
name = "p"
[[site]]
name = "s"
bindings = "127.0.0.1:7"
[[site.application]]
app = "one:application"
[[site.application]]
path = "/two"
app = "two:application"
directory = "below"
"""
APPLICATION = "import os\nprint('loading')\ndef application(environ, start_response): pass\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two applications and no file that is found by itself."""
    (tmp_path / "below").mkdir()
    (tmp_path / "one.py").write_text(APPLICATION)
    (tmp_path / "below" / "two.py").write_text(APPLICATION)
    (tmp_path / "site.toml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_is_used_when_it_is_named() -> None:
    settings = cli.read_command(["--config", "site.toml"])
    assert [one.app for one in settings.sites[0].applications] == [
        "one:application",
        "two:application",
    ]
    assert not settings.check
    assert cli.read_command(["serve", "--config", "site.toml", "--check"]).check


def test_the_usual_file_is_used_when_nothing_is_named(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.read_command([]).config_file == ""
    (folder / "kernelq.toml").write_text(FILE)
    assert cli.read_command([]).config_file == str(folder / "kernelq.toml")
    assert "no application is named: reading kernelq.toml" in capfd.readouterr().err
    settings = cli.read_command(["app:a"])
    assert (settings.config_file, settings.sites[0].applications[0].app) == ("", "app:a")


def test_a_file_without_a_name_is_no_file() -> None:
    """As from a variable of the shell that is not set."""
    with pytest.raises(OptionError, match="--config: found '', allowed is the name of a file"):
        cli.read_command(["--config", ""])


def test_a_reload_reads_what_the_start_has_read(folder: Path) -> None:
    start = cli.read_command([])
    (folder / "kernelq.toml").write_text(FILE)
    assert cli.reload_of(start, [], [])() == start
    start = cli.read_command([])
    (folder / "kernelq.toml").rename(folder / "gone.toml")
    with pytest.raises(ConfigurationErrors, match=r"kernelq\.toml: cannot be read"):
        cli.reload_of(start, [], [])()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["app:a"], "the application app:a (app in [[site.application]]): this stands in f"),
        (["--workers", "2"], "--workers (max_processes in [[pool]]): this stands in f"),
        (
            ["--bind", "unix:x", "--preload"],
            "--preload (preload in [[pool]]), --bind (bindings in [[site]]): this stands in f",
        ),
        (
            ["--rapid-fail", "off"],
            "--rapid-fail (max_crashes in [pool.rapid_fail] and interval in [pool.rapid_fail]): "
            "this stands in f",
        ),
    ],
)
def test_what_a_file_says_does_not_stand_beside_it(words: list[str], line: str) -> None:
    with pytest.raises(OptionError) as refused:
        cli.read_command(["--config", "f", *words])
    assert str(refused.value) == line


def test_options_beside_the_usual_file_say_why_it_is_used(folder: Path) -> None:
    (folder / "kernelq.toml").write_text(FILE)
    with pytest.raises(OptionError, match="which is used because no application is named"):
        cli.read_command(["--bind", "127.0.0.1:0"])


def test_errors_are_lines_that_editors_understand(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.toml").write_text("[server]\nloops = 0\nlops = 1\n" + FILE)
    assert cli.main(["--config", "bad.toml"]) == 2
    first, second, count = capsys.readouterr().err.splitlines()
    assert first.startswith("bad.toml:2: server.loops: found 0")
    assert second.startswith("bad.toml:3: server.lops: ")
    assert count == "kernelq: 2 errors"


@pytest.mark.parametrize("words", [["check"], ["--check"], ["serve", "--check"]])
def test_check_loads_every_application(
    words: list[str], capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert cli.main([*words, "--config", "site.toml"]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines() == [
        f"kernelq: all is well: {folder}/site.toml: 1 site, 2 applications, 1 pool",
        "  site s: 127.0.0.1:7:",
        "  pool p: 2 applications, at most 1 worker with 4 threads",
    ]
    assert err.count("loading") == 2


def test_check_says_all_that_cannot_be_loaded(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "one.py").write_text("def other(): pass\n")
    (folder / "below" / "two.py").unlink()
    assert cli.main(["check", "--config", "site.toml"]) == 2
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("kernelq: pool p: application ")
    assert "'one:application': module 'one' has no 'application'; it has other" in first
    assert "'two:application': there is no module 'two' (looked in" in second


def test_check_of_one_application(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "one:application", "--workers", "3"]) == 0
    out = capfd.readouterr().out
    assert out == "kernelq: all is well: one:application, 3 workers, on 127.0.0.1:8000\n"
    assert cli.main(["check", "absent:application"]) == 2


def test_check_survives_what_applications_do(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "one.py").write_text("import os\nos._exit(3)\n")
    assert cli.main(["check", "--config", "site.toml"]) == 2
    assert "loading its applications ended the process (exit status 3)" in capfd.readouterr().err
    (folder / "one.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    assert cli.main(["check", "--config", "site.toml"]) == 2
    assert "ended the process (signal 9 (SIGKILL))" in capfd.readouterr().err


def test_check_waits_no_longer_than_a_start(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "one.py").write_text("import threading\nthreading.Event().wait()\n")
    text = FILE.replace('name = "p"\n', 'name = "p"\nstartup_time_limit = 1\n')
    (folder / "site.toml").write_text(text)
    assert cli.main(["check", "--config", "site.toml"]) == 2
    assert "takes longer than 1 s (startup_time_limit)" in capfd.readouterr().err


def test_check_gives_applications_their_variables(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "below" / "two.py").write_text(
        "import os\nassert (os.environ['A'], os.environ['B']) == ('1', '2')\n" + APPLICATION
    )
    variables = 'environment = { B = "2" }\n'
    (folder / "site.toml").write_text(
        FILE.replace('name = "p"\n', 'name = "p"\nprocess.environment = { A = "1" }\n') + variables
    )
    assert cli.main(["check", "--config", "site.toml"]) == 0


def test_an_interpreter_without_kernelq_is_named(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An interpreter that looks for modules nowhere but in its own library."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    (folder / "site.toml").write_text(
        FILE.replace('name = "p"\n', f'name = "p"\nprocess.python = "{python}"\n')
    )
    assert cli.main(["check", "--config", "site.toml"]) == 2
    assert f"{python} cannot import kernelq" in capfd.readouterr().err


def test_check_loads_as_the_pools_user() -> None:
    """By the system's own Python, since that of the tests may lie where only root may go."""
    python = "/usr/bin/python3"
    if os.geteuid() != 0 or not _is_new_enough(python):
        pytest.skip("needs root, and a Python that everybody may run")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        Path(folder, "who.py").write_text(
            "import os\nraise ValueError(f'{os.getuid()} {os.getgid()} {sorted(os.getgroups())}')"
        )
        process = ProcessSettings(
            python=python,
            user="65534",
            group="65533",
            groups=("65532",),
            environment=(("PYTHONPATH", str(ROOT)),),
        )
        settings = cli.read_command(["who:application", "--chdir", folder])
        pool = replace(settings.pools[0], process=process)
        (error,) = trial.try_pools(replace(settings, pools=(pool,)))
    assert "ValueError: 65534 65533 [65532, 65533]" in error


def _is_new_enough(python: str) -> bool:
    code = "import sys; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([python, "-c", code], check=False).returncode == 0
    except OSError:
        return False


def test_config_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "show", "--config", "site.toml"]) == 0
    assert 'bindings = ["127.0.0.1:7:"]                  # site.toml:5' in capsys.readouterr().out
    (folder / "kernelq.toml").write_text(FILE)
    assert cli.main(["config", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["site"][0]["name"] == {"value": "s", "source": "kernelq.toml:4"}


def test_config_show_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "show"]) == 2
    assert capsys.readouterr().err.startswith("kernelq.toml: cannot be read: No such file")


def test_config_example_and_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "example"]) == 0
    assert "[[site.application]]" in capsys.readouterr().out
    assert cli.main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "kernelq.toml"


def test_config_without_a_subject(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config"]) == 2
    assert "config: the following arguments are required" in capsys.readouterr().err


def test_the_demo_needs_no_file() -> None:
    assert cli.read_command([]).sites[0].applications[0].app == DEMO_APPLICATION


def test_the_file_of_the_document_means_what_its_command_does(folder: Path) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    _, _, part = page.partition("What `kernelq shop.wsgi:application")
    words, _, rest = part.partition("` means, as a file:\n")
    lines = [line[4:] for line in rest.partition("<!--")[0].split("\n")]
    (folder / "as.toml").write_text("\n".join(lines))
    command = cli.read_command(["shop.wsgi:application", *words.split(), "--workers", "4"])
    file = cli.read_command(["--config", "as.toml"])
    assert file.pools == command.pools
    assert file.sites == command.sites
    assert file.core == command.core
