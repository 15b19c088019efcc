"""The application's name, and what can be wrong with the application."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernelq.application import load, parse_reference
from kernelq.errors import OptionError, StartError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refusal(text: str) -> str:
    with pytest.raises(StartError) as refused:
        load(parse_reference(text))
    return str(refused.value)


def test_plain_and_dotted_names(folder: Path) -> None:
    (folder / "plain.py").write_text("class site:\n    def app(e, s): return [b'']\n")
    assert load(parse_reference("plain:site.app")).__name__ == "app"


def test_factory_with_literal_arguments(folder: Path) -> None:
    (folder / "made.py").write_text(
        "def make(*a, **k):\n    def app(e, s): return [repr((a, k)).encode()]\n    return app\n"
    )
    app = load(parse_reference("made:make('x', 1, debug=True, path=['a'])"))
    assert app(None, None) == [b"(('x', 1), {'debug': True, 'path': ['a']})"]


@pytest.mark.parametrize(
    "text", ["app", "app:", ":app", "app:1x", "a b:c", "app:f(", "app:f(x)", "app:f(**{})",
             "app:f(__import__('os'))", "app:f()+1", "app:f()()", "-:x"],
)  # fmt: skip
def test_bad_names(text: str) -> None:
    with pytest.raises(OptionError) as refused:
        parse_reference(text)
    assert repr(text) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_file_name_is_told_apart() -> None:
    with pytest.raises(OptionError, match=r"allowed is shop\.app:CALLABLE"):
        parse_reference("shop/app.py")


def test_missing_module() -> None:
    text = refusal("nothing_here:app")
    assert "there is no module 'nothing_here'" in text
    assert "\n" not in text


def test_missing_package_of_a_module() -> None:
    assert "there is no module 'nothing_here'" in refusal("nothing_here.wsgi:app")


def test_missing_attribute_names_what_there_is(folder: Path) -> None:
    (folder / "other.py").write_text("def wsgi_app(e, s): pass\nvalue = 1\n")
    text = refusal("other:app")
    assert "has no 'app'; it has wsgi_app" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("code", "last"),
    [
        ("import absent_library\n", "ModuleNotFoundError: No module named 'absent_library'"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def broken(:\n", "SyntaxError: invalid syntax"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
    ],
)
def test_error_inside_the_module_comes_with_its_traceback(
    folder: Path, code: str, last: str
) -> None:
    (folder / "faulty.py").write_text(code)
    first, *rest = refusal("faulty:app").split("\n")
    assert last in first
    traceback = "\n".join(rest)
    assert "faulty.py" in traceback
    assert "importlib" not in traceback
    assert "application.py" not in traceback


def test_not_callable(folder: Path) -> None:
    (folder / "thing.py").write_text("app = {}\ndef make(): return 1\n")
    assert refusal("thing:app") == "application 'thing:app' cannot be called: it is a dict"
    assert "the factory returned a int" in refusal("thing:make()")


def test_factory_that_fails(folder: Path) -> None:
    (folder / "shop.py").write_text("def make(): raise LookupError('no settings')\n")
    text = refusal("shop:make()")
    assert text.startswith("application 'shop:make()': the factory failed: LookupError")
    assert "shop.py" in text
