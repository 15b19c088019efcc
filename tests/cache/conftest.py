"""Servers with a cache, each shared by many tests; every test has URLs of its own."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(1, str(Path(__file__).parent.parent / "endtoend"))

from origin import ONE_OF_EACH, Site, site_of
from serving import Gate


@pytest.fixture(scope="session")
def rfc9111(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Everything that a shared cache may store."""
    yield from site_of(tmp_path_factory.mktemp("rfc9111"), *ONE_OF_EACH, "--cache", "rfc9111")


@pytest.fixture(scope="session")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """As it is without any option."""
    yield from site_of(tmp_path_factory.mktemp("public"), *ONE_OF_EACH)


@pytest.fixture(scope="session")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One thread: answers come in the order of requests, so that settle() can wait for them."""
    options = ("--workers", "1", "--threads", "1", "--loops", "1", "--cache", "rfc9111")
    yield from site_of(tmp_path_factory.mktemp("ordered"), *options)


@pytest.fixture(scope="session")
def ordered_public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    options = ("--workers", "1", "--threads", "1", "--loops", "1")
    yield from site_of(tmp_path_factory.mktemp("ordered_public"), *options)


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[Callable[[], Gate]]:
    """Makes gates."""
    made: list[Gate] = []

    def make() -> Gate:
        made.append(Gate(tmp_path / f"gate{len(made)}"))
        return made[-1]

    yield make
    for gate in made:
        gate.close()
