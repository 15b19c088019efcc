"""The documents say what the code says."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import pages  # noqa: E402


@pytest.mark.parametrize("name", pages.PAGES)
def test_page_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text() == pages.PAGES[name](), "run: python tools/pages.py"


def test_every_test_that_an_invariant_names_exists() -> None:
    text = (ROOT / "docs" / "invariants.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 20
    missing = []
    for path, function in named:
        file = ROOT / path
        definition = rf"\bdef {function}\b" if function else ""
        if not file.exists() or not re.search(definition, file.read_text()):
            missing.append(f"{path}::{function}")
    assert missing == []


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_between_documents_lead_somewhere(page: str) -> None:
    path = ROOT / page if page == "README.md" else ROOT / "docs" / page
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


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
        for word in re.findall(r"(?<![\w-])--[a-z][\w-]+", path.read_text()):
            assert word in known, f"{path.name}: {word}"
