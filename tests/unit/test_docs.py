"""The documents say what the code says."""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import pages  # noqa: E402

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")])
OF_PEOPLE = [path for path in DOCUMENTS if path.name not in ("options.md", "layout.md")]


@pytest.mark.parametrize("name", pages.PAGES)
def test_page_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text() == pages.PAGES[name](), "run: python tools/pages.py"


def test_every_test_that_a_document_names_exists() -> None:
    found = r"`(tests/[\w/]+\.py)(?:::(\w+))?`"
    named = [one for path in DOCUMENTS for one in re.findall(found, path.read_text())]
    assert len(named) > 20
    missing = []
    for path, function in named:
        file = ROOT / path
        definition = rf"\bdef {function}\b" if function else ""
        if not file.exists() or not re.search(definition, file.read_text()):
            missing.append(f"{path}::{function}")
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", path.read_text()):
        page = path.parent / target if target else path
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as they are made from their words."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {one.strip().replace(" ", "-") for one in words}


def test_every_file_that_is_named_exists() -> None:
    names = {path.name for folder in ("kernelq", "tests", "bench", "tools") for path in
             (ROOT / folder).rglob("*")}  # fmt: skip
    for path in DOCUMENTS:
        for word in re.findall(r"`[\w/]*?(\w+\.(?:py|pxi|pxd))`", path.read_text()):
            assert word in names, f"{path.name}: {word}"


def test_every_event_that_is_named_exists() -> None:
    from kernelq.pool.events import EVENTS

    for path in DOCUMENTS:
        for numbers in re.findall(
            r"(?:\bevent |\[)([5-6]\d{3}(?:, [5-6]\d{3})*)\b", path.read_text()
        ):
            for number in numbers.split(", "):
                assert int(number) in EVENTS, f"{path.name}: {number}"


def test_every_command_that_is_named_exists() -> None:
    from kernelq.subjects import SUBJECTS

    known = {*SUBJECTS, "check", "config", "serve"}
    for path in DOCUMENTS:
        for line in path.read_text().splitlines():
            for word in re.findall(r"(?:`|^    (?:\$ )?|&& )kernelq ([a-z]+)\b(?![.:])", line):
                assert word in known, f"{path.name}: {word}"


def test_every_key_that_is_named_exists() -> None:
    """`key` in `[section]`, `[section] key`, and whole examples."""
    known = keys_by_section()
    of_words = r"((?:`\w+`, )*`\w+`) in `\[+([\w.]+)\]+`"
    for path in OF_PEOPLE:
        text = path.read_text()
        named = [(section, key) for keys, section in re.findall(of_words, text)
                 for key in re.findall(r"\w+", keys)]  # fmt: skip
        named += re.findall(r"`\[+((?:pool|site|server|limits|cache)[\w.]*)\]+ (\w+)`", text)
        named += [one for example in examples(text) for one in keys_of(example, "")]
        for section, key in named:
            assert key in known.get(section, ()), f"{path.name}: {key} in [{section}]"


def keys_by_section() -> dict[str, set[str]]:
    from kernelq.configuration.table import SECTIONS

    known = {section.name: {key.name for key in section.keys} for section in SECTIONS}
    known[""] = {name for name in known if "." not in name} | {"defaults"}
    for section in list(known):
        head, _, last = section.rpartition(".")
        if head in known:
            known[head].add(last)
    return known


def examples(text: str) -> Iterator[dict[str, Any]]:
    """The indented blocks that are configuration files, or parts of one."""
    for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.M):
        if re.match(r"\s*\[", block) and " = " in block:
            yield tomllib.loads(block)


def keys_of(table: dict[str, Any], section: str) -> Iterator[tuple[str, str]]:
    """(section, key) of everything in it but what people name themselves."""
    for key, value in table.items():
        yield section, key
        inner = f"{section}.{key}".removeprefix(".")
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict) and inner in keys_by_section():
                yield from keys_of(one, inner)


def test_every_option_is_in_the_readers_words() -> None:
    """What the documents call an option exists."""
    from kernelq.commands import make_parser
    from kernelq.options import OPTIONS
    from kernelq.subjects import SUBJECTS

    known = {option.name for option in OPTIONS} | {"--help", "--version"}
    known |= {"--group", "--origin", "--exact"}  # of `kernelq cache flush`
    known |= {word for one in SUBJECTS for word in make_parser(one)._option_string_actions}
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        if path.name in ("HACKING.md", "performance.md"):
            continue  # options of other tools
        text = re.sub(r"\bpython -m bench[^`\n]*", "", path.read_text())
        for word in re.findall(r"(?<![\w-])--[a-z][\w-]+", text):
            assert word in known, f"{path.name}: {word}"
