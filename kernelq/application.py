"""The application's name on the command line, and the application itself.

MODULE:CALLABLE names it; MODULE:FACTORY() calls a factory, with literal arguments if need be. What
can go wrong when it is loaded is told apart: a missing module, a missing attribute, an error inside
the module (with its traceback, without kernelq's and the importer's own frames), something that
cannot be called.
"""

from __future__ import annotations

import importlib
import os
import sys

from kernelq.errors import OptionError, StartError

TYPE_CHECKING = False  # see worker.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_ALLOWED = "MODULE:CALLABLE or MODULE:FACTORY(), such as app:application or project.wsgi:make_app()"


class Reference:
    """A parsed application name."""

    __slots__ = ("arguments", "attribute", "call", "keywords", "module", "text")

    def __init__(self, text: str, module: str, attribute: str) -> None:
        self.text = text
        self.module = module
        self.attribute = attribute
        self.call = False
        self.arguments: list[object] = []
        self.keywords: dict[str, object] = {}


def parse_reference(text: str) -> Reference:
    """OptionError when the text names no application."""
    module, colon, rest = text.partition(":")
    if not colon and _looks_like_file(text):
        name = text.removesuffix(".py").replace(os.sep, ".")
        raise OptionError(f"application: found the file name {text!r}, allowed is {name}:CALLABLE")
    if not colon or not _is_dotted(module):
        raise OptionError(f"application: found {text!r}, allowed is {_ALLOWED}")
    name, parenthesis, _ = rest.partition("(")
    if not _is_dotted(name):
        raise OptionError(f"application: found {text!r}, allowed is {_ALLOWED}")
    reference = Reference(text, module, name)
    if parenthesis:
        _parse_call(reference, rest)
    return reference


def load(reference: Reference) -> Callable[..., Any]:
    """Import the module and find (or make) the application; StartError says what went wrong."""
    module = _import_module(reference)
    target: object = module
    for part in reference.attribute.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            raise StartError(_attribute_missing(reference, part, target)) from None
    if not callable(target):
        raise StartError(
            f"application {reference.text!r} cannot be called: it is a {type(target).__name__}"
        )
    if not reference.call:
        return target
    return _call_factory(reference, target)


def _looks_like_file(text: str) -> bool:
    return text.endswith(".py") or os.path.isfile(text)


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _parse_call(reference: Reference, text: str) -> None:
    import ast

    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or isinstance(call.func, ast.Call):
            raise ValueError
        reference.arguments = [ast.literal_eval(argument) for argument in call.args]
        for keyword in call.keywords:
            if keyword.arg is None:
                raise ValueError
            reference.keywords[keyword.arg] = ast.literal_eval(keyword.value)
    except (SyntaxError, ValueError):
        raise OptionError(
            f"application: found {reference.text!r}, allowed are literal arguments only, "
            "such as MODULE:FACTORY('production', debug=False)"
        ) from None
    reference.call = True


def _import_module(reference: Reference) -> object:
    try:
        return importlib.import_module(reference.module)
    except ModuleNotFoundError as found:
        if found.name is not None and f"{reference.module}.".startswith(f"{found.name}."):
            place = sys.path[0] if sys.path else "."
            raise StartError(
                f"application {reference.text!r}: there is no module {found.name!r} "
                f"(looked in {place} and in sys.path; --chdir or `directory` names another)"
            ) from None
        raise StartError(_with_traceback(reference, "importing it failed", found)) from None
    except BaseException as found:
        raise StartError(_with_traceback(reference, "importing it failed", found)) from None


def _attribute_missing(reference: Reference, part: str, target: object) -> str:
    names = [name for name in getattr(target, "__dict__", {}) if not name.startswith("_")]
    callables = sorted(name for name in names if callable(getattr(target, name, None)))
    hint = f"; it has {', '.join(callables[:8])}" if callables else ""
    return f"application {reference.text!r}: module {reference.module!r} has no {part!r}{hint}"


def _call_factory(reference: Reference, factory: Callable[..., Any]) -> Callable[..., Any]:
    try:
        made = factory(*reference.arguments, **reference.keywords)
    except BaseException as found:
        raise StartError(_with_traceback(reference, "the factory failed", found)) from None
    if not callable(made):
        raise StartError(
            f"application {reference.text!r} cannot be called: "
            f"the factory returned a {type(made).__name__}"
        )
    result: Callable[..., Any] = made
    return result


def _with_traceback(reference: Reference, what: str, found: BaseException) -> str:
    import traceback

    described = traceback.TracebackException.from_exception(found)
    described.stack = traceback.StackSummary.from_list(
        [frame for frame in described.stack if not _is_ours(frame.filename)]
    )
    last = f"{type(found).__name__}: {found}".splitlines()[0]
    text = "".join(described.format(chain=True)).rstrip()
    return f"application {reference.text!r}: {what}: {last}\n{text}"


def _is_ours(filename: str) -> bool:
    return (
        filename == __file__
        or filename.startswith("<frozen importlib")
        or (filename == importlib.__file__)
    )
