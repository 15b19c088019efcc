"""The rules that a reader may rely on everywhere: sizes, layers, named memory orders, no Python in
the core. Lists of exceptions may only shrink: an entry that is not needed any more fails too.
"""

import ast
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "kernelq" / "core"

FUNCTION_LINES = 70
PART_LINES, FILE_LINES, TEST_LINES, MAP_LINES = 900, 500, 600, 300
COLUMNS = 100

LONG_FUNCTIONS: set[str] = set()
LONG_FILES: dict[str, int] = {}

# Parts that touch Python: the core's doors, and what of the worker makes and reads objects.
PYTHON_PARTS = {
    "cache_doors.pxi",
    "doors.pxi",
    "pool_doors.pxi",
    "route_doors.pxi",
    "worker_channel.pxi",
    "worker_environ.pxi",
    "worker_input.pxi",
    "worker_response.pxi",
    "worker_serve.pxi",
    "worker_streams.pxi",
}
# A header may cimport headers of the rows above its own.
LAYERS = (
    {"atomic", "bug", "linux", "limits", "thread"},
    {"layout", "reason", "span", "scan", "spin", "status", "settings", "fields"},
    {"ring", "timer", "http1", "target", "forwarded"},
    {"cache_rules"},
    {"cache_store", "route"},
    {"kinds"},
    {"pieces"},
    {"state", "link"},
)
# Modules of kernelq/pool that do things; all others are the plan, which decides.
OUTSIDE_THE_PLAN = {
    "__init__",
    "executor",
    "journal",
    "limits",
    "member",
    "neighbours",
    "orphan",
    "probes",
    "schedule",
    "watch",
}
FUNCTION = re.compile(
    r"^(?P<indent> *)(?:cdef|cpdef|def|async def) (?P<type>[^=(]*?[ *])?(?P<name>\w+)\("
)


def tracked() -> list[Path]:
    """The project's files: what git knows, or, in an unpacked archive, what stands there."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0 and done.stdout:
        return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]
    places = ("kernelq", "tests", "tools", "fuzz", "bench", "docs")
    return [path for place in places for path in (ROOT / place).rglob("*") if path.is_file()]


FILES = tracked()
CYTHON = [path for path in FILES if path.suffix in (".pyx", ".pxd", ".pxi")]
PYTHON = [path for path in FILES if path.suffix == ".py"]
PARTS = sorted(CORE.glob("*.pxi"))
HEADERS = [path for path in sorted(CORE.glob("*.pxd")) if path.stem != "__init__"]
NOGIL_PARTS = [path for path in PARTS if path.name not in PYTHON_PARTS]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def signature_end(lines: list[str], at: int) -> int:
    """The line on which the brackets that open at this one are closed."""
    depth = 0
    for index in range(at, len(lines)):
        code = lines[index].split("#")[0]
        depth += sum(map(code.count, "([")) - sum(map(code.count, ")]"))
        if depth <= 0:
            return index
    return len(lines) - 1


def cython_functions(path: Path) -> Iterator[tuple[str, str, int]]:
    """(name, signature, count of lines) of each function, without declarations and verbatim C."""
    lines = path.read_text().split("\n")
    for at, line in enumerate(lines):
        found = FUNCTION.match(line)
        if found is None or " extern " in line:
            continue
        end = signature_end(lines, at)
        signature = " ".join(text.split("#")[0].strip() for text in lines[at : end + 1])
        if not signature.endswith(":"):
            continue
        last = end
        for index in range(end + 1, len(lines)):
            text = lines[index]
            if text.strip() and len(text) - len(text.lstrip()) <= len(found["indent"]):
                break
            last = index if text.strip() else last
        yield found["name"], signature, last - at + 1


def python_functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def core_functions(path: Path) -> dict[str, str]:
    """Name and signature of each C function of a part or header."""
    return {name: signature for name, signature, _ in cython_functions(path)}


def test_functions_are_short() -> None:
    long = set()
    for path in CYTHON:
        for name, _, count in cython_functions(path):
            if count > FUNCTION_LINES:
                long.add(f"{named(path)}:{name} {count}")
    for path in PYTHON:
        for name, count in python_functions(path):
            if count > FUNCTION_LINES:
                long.add(f"{named(path)}:{name} {count}")
    assert long == LONG_FUNCTIONS


def lines_allowed(path: Path) -> int:
    if path.name == "_core.pyx":
        return MAP_LINES
    if path.is_relative_to(ROOT / "tests"):
        return TEST_LINES
    return PART_LINES if path.suffix == ".pxi" else FILE_LINES


def test_files_are_short() -> None:
    long = {}
    for path in CYTHON + PYTHON:
        count = path.read_text().count("\n")
        if count > lines_allowed(path):
            long[named(path)] = count
    assert {name: n for name, n in long.items() if n > LONG_FILES.get(name, 0)} == {}
    assert LONG_FILES.keys() <= long.keys()


def test_lines_fit() -> None:
    wide = [
        f"{named(path)}:{number}"
        for path in CYTHON + PYTHON
        for number, line in enumerate(path.read_text().split("\n"), 1)
        if len(line) > COLUMNS
    ]
    assert wide == []


def test_every_part_is_included_and_every_header_used() -> None:
    texts = {path: path.read_text() for path in CYTHON}
    included = set(
        re.findall(r'^include "(?:[\w./]*/)?(\w+\.pxi)"', "\n".join(texts.values()), re.M)
    )
    assert [path.name for path in PARTS if path.name not in included] == []
    for header in HEADERS:
        use = re.compile(
            rf"^from kernelq\.core\.{header.stem} cimport"
            rf"|^from kernelq\.core cimport [^\n]*\b{header.stem}\b",
            re.M,
        )
        assert any(use.search(text) for path, text in texts.items() if path != header), header.name


def test_headers_keep_their_layers() -> None:
    level = {name: depth for depth, names in enumerate(LAYERS) for name in names}
    assert sorted(level) == sorted(header.stem for header in HEADERS)
    wrong = []
    for header in HEADERS:
        text = header.read_text()
        uses = set(re.findall(r"^from kernelq\.core\.(\w+) cimport", text, re.M))
        for words in re.findall(r"^from kernelq\.core cimport ([^\n]*)", text, re.M):
            uses |= {word.strip() for word in words.split("#")[0].split(",")}
        wrong += [
            f"{header.stem} uses {used}" for used in uses if level[used] >= level[header.stem]
        ]
    assert wrong == []


def test_plan_knows_only_its_own_words() -> None:
    places = sorted((ROOT / "kernelq" / "pool").glob("*.py"))
    parts = [path for path in places if path.stem not in OUTSIDE_THE_PLAN]
    own = {"kernelq.pool", "kernelq.units", *(f"kernelq.pool.{path.stem}" for path in parts)}
    outside = {"collections.abc", "dataclasses", "enum", "typing"}
    for path in parts:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Import), path.name
            if isinstance(node, ast.ImportFrom):
                assert node.module in own | outside, f"{path.name} imports {node.module}"


def test_worker_loads_nothing_of_the_listener() -> None:
    code = (
        "import sys, kernelq.worker, kernelq._worker\n"
        "print(*sorted(name for name in sys.modules if name.startswith('kernelq')))"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"kernelq._core", "kernelq.service", "kernelq.supervisor", "kernelq.cli"}


def test_commands_that_talk_to_a_server_load_nothing_of_a_start() -> None:
    code = (
        "import sys, kernelq.__main__\n"
        "kernelq.__main__.main(['status', '--control', '/nonexistent/socket'])\n"
        "print(*sorted(name for name in sys.modules if name.startswith('kernelq')))"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "there is no such socket" in done.stderr
    loaded = set(done.stdout.split())
    assert "kernelq.commands" in loaded
    assert not loaded & {"kernelq._core", "kernelq.cli", "kernelq.config", "kernelq.configuration"}


def is_marked(lines: list[str], index: int) -> bool:
    above = [line for line in lines[max(0, index - 2) : index] if line.strip().startswith("#")]
    return any("SYNC " in line for line in [lines[index], *above])


def test_every_ordered_access_is_named_at_both_ends() -> None:
    release = re.compile(r"atomic\.(store_release|store_seq|swap_if|add|fence_seq)")
    acquire = re.compile(r"atomic\.(load_acquire|load_seq|swap_if|add|fence_seq)")
    ordered = re.compile(
        r"atomic\.(store_release|store_seq|load_acquire|load_seq|swap_if|fence_seq)"
    )
    sides: dict[str, set[str]] = defaultdict(set)
    unnamed = []
    for path in PARTS + HEADERS:
        lines = path.read_text().split("\n")
        for index, line in enumerate(lines):
            if path.stem == "atomic" or line.strip().startswith("#"):
                continue
            if ordered.search(line) and not is_marked(lines, index):
                unnamed.append(f"{named(path)}:{index + 1}: {line.strip()}")
            near = " ".join([line, *(x for x in lines[max(0, index - 2) : index] if "#" in x)])
            for name in re.findall(r"SYNC ([\w-]+)", near):
                sides[name] |= {"release"} if release.search(line) else set()
                sides[name] |= {"acquire"} if acquire.search(line) else set()
    assert unnamed == []
    assert {name: found for name, found in sides.items() if len(found) < 2} == {}


def test_core_functions_need_no_python() -> None:
    bare = [
        f"{named(path)}:{name}"
        for path in NOGIL_PARTS + HEADERS
        for name, signature in core_functions(path).items()
        if "noexcept nogil" not in signature
    ]
    assert bare == []


def test_core_parts_raise_nothing() -> None:
    words = re.compile(r"^\s*(with gil|raise|try:|assert|print\()|\bwith gil\b")
    found = [
        f"{named(path)}:{number}: {line.strip()}"
        for path in NOGIL_PARTS + HEADERS
        for number, line in enumerate(path.read_text().split("\n"), 1)
        if words.search(line.split("#")[0])
    ]
    assert found == []


@pytest.mark.parametrize(
    ("module", "parts"),
    [
        ("_core", [path for path in NOGIL_PARTS if not path.name.startswith("worker_")]),
        ("_worker", [path for path in NOGIL_PARTS if path.name.startswith("worker_")]),
    ],
)
def test_generated_code_of_the_core_calls_no_python(module: str, parts: list[Path]) -> None:
    generated = ROOT / "build" / "cython-release" / "kernelq" / f"{module}.c"
    if not generated.exists():
        pytest.skip("not built here")
    text = generated.read_text()
    words = re.compile(r"PyGILState|WriteUnraisable|AddTraceback|__Pyx_Raise|Py_INCREF")
    names = {name for path in parts for name in core_functions(path)}
    seen = set()
    for found in re.finditer(rf"^static [^\n;]*__pyx_f_7kernelq_\d+{module}_(\w+)\(", text, re.M):
        body_at, end = text.find("{", found.end()), text.find("\n}\n", found.end())
        if found[1] not in names or text.find(";", found.end()) < body_at:
            continue
        seen.add(found[1])
        assert not words.search(text, found.end(), end), found[1]
    assert len(seen) > 0.8 * len(names)


# Written backwards, so that this file does not hold what it looks for.
UNWANTED = [word[::-1] for word in ("ODOT", "EMXIF", ":KCAH", "/krow/", "eertkrow")]


def test_no_debts_and_no_traces_of_a_workplace() -> None:
    found = []
    for path in FILES:
        if path.suffix in (".http", ".expect", ".png", ".ico"):
            continue
        text = path.read_text(errors="replace")
        found += [
            f"{named(path)}: {word}" for word in UNWANTED if re.search(rf"(?<!\w){word}", text)
        ]
    assert found == []
