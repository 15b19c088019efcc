"""A wheel, built from the source archive, serves where there is neither compiler nor source."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
from server import ROOT, Server

pytestmark = pytest.mark.slow


def run(*command: str | Path, **how: Any) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **how)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, made from a copy, so that nothing that was built here gets into it."""
    folder = tmp_path_factory.mktemp("sdist")
    copy = folder / "copy"
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "*.so", "*.c", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=unwanted)
    code = "from setuptools import build_meta; build_meta.build_sdist('..')"
    run(sys.executable, "-c", code, cwd=copy)
    return next(folder.glob("kernelq-*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", folder)
    run(sys.executable, "-m", "pip", "wheel", *options, archive)
    return next(folder.glob("kernelq-*.whl"))


def test_archive_holds_what_a_build_needs(archive: Path) -> None:
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    assert {"LICENSE", "README.md", "setup.py", "kernelq/_core.pyx", "kernelq/py.typed"} <= names
    assert "kernelq/core/layout.pxd" in names
    assert "kernelq/_coretest.pyx" not in names
    assert not [name for name in names if name.endswith((".so", ".c"))]


def test_wheel_holds_no_sources_of_the_core(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.endswith((".pyx", ".pxd", ".pxi", ".c"))]
    assert not [name for name in names if "_coretest" in name or name.startswith("tests")]
    assert {"kernelq/py.typed", "kernelq/_core.pyi", "kernelq/_worker.pyi"} <= set(names)
    modules = sorted(name.split(".")[0] for name in names if name.endswith(".so"))
    assert modules == ["kernelq/_core", "kernelq/_worker"]


def test_wheel_serves_where_there_is_no_compiler(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "environment"
    venv.create(place, with_pip=False, symlinks=True)
    packages = next(place.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as content:
        content.extractall(packages)
    import psutil

    shutil.copytree(Path(psutil.__file__).parent, packages / "psutil")
    environment = {"PATH": "/nonexistent", "PYTHONPATH": ""}
    python = (str(place / "bin" / "python"),)
    server = Server(tmp_path, environment=environment, python=python).ready()
    try:
        assert "worker" in server.get()
        assert server.end() == 0
    finally:
        if server.process.returncode is None:
            server.kill_all()


def test_command_is_installed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        entries = next(name for name in content.namelist() if name.endswith("entry_points.txt"))
        assert b"kernelq = kernelq.__main__:main" in content.read(entries)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
