"""Build the libFuzzer harness and its seeds: python fuzz/build.py [OUTPUT]  (needs clang).

The harness is one executable. Cython makes C of it, in which the parser's functions need no Python;
the interpreter is linked but never started.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from Cython.Compiler.Main import CompilationOptions, compile_single, default_options

ROOT = Path(__file__).resolve().parents[1]
SANITIZERS = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
FLAGS = ["-g", "-O1", "-std=gnu11", "-D_GNU_SOURCE=1", "-DKQ_DEBUG=1", "-w", *SANITIZERS]
# Which parser a seed is for: the first byte of an input (see http1_fuzz.pyx).
HEAD, CHUNKS, TARGET = b"\0", b"\1", b"\2"


def translate(source: Path, target: Path) -> None:
    directives = {"language_level": 3, "cdivision": True, "boundscheck": False}
    directives |= {"wraparound": False, "initializedcheck": False}
    options = CompilationOptions(
        default_options,
        output_file=str(target),
        include_path=[str(ROOT)],
        emit_linenums=True,
        compiler_directives=directives,
    )
    result = compile_single(str(source), options, "http1_fuzz")
    if result.num_errors:
        sys.exit("Cython failed")


def compile_harness(source: Path, target: Path) -> None:
    library = sysconfig.get_config_var("LIBDIR")
    version = sysconfig.get_config_var("LDVERSION")
    command = [
        "clang",
        *FLAGS,
        f"-I{sysconfig.get_paths()['include']}",
        str(source),
        "-o",
        str(target),
    ]
    command += [f"-L{library}", f"-Wl,-rpath,{library}", f"-lpython{version}"]
    subprocess.run(command, check=True)


def write_seeds(directory: Path) -> None:
    """One input per file of the corpus: whole, and what stands behind the head as chunks."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "tests" / "corpus" / "http1").glob("*/*.http")):
        data = path.read_bytes()
        if len(data) > 2000:
            continue
        stem = f"{path.parent.name}-{path.stem}"
        (directory / stem).write_bytes(HEAD + b"\0" + data)
        head, _, content = data.partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            (directory / f"{stem}-chunks").write_bytes(CHUNKS + b"\0" + content)
        words = head.split(b" ")
        if len(words) > 1:
            (directory / f"{stem}-target").write_bytes(TARGET + b"\0" + words[1])


def main() -> None:
    output = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "fuzz")
    output.mkdir(parents=True, exist_ok=True)
    translate(ROOT / "fuzz" / "http1_fuzz.pyx", output / "http1_fuzz.c")
    compile_harness(output / "http1_fuzz.c", output / "http1_fuzz")
    write_seeds(output / "seeds")
    print(output / "http1_fuzz")


if __name__ == "__main__":
    main()
