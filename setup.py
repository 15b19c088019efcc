"""Build the extension modules; everything else about the project stands in pyproject.toml.

KERNELQ_DEBUG=1     -O1 -g, BUG_ON's dear checks, fault points
KERNELQ_SANITIZE=x  build with -fsanitize=x (address,undefined or thread); implies the debug checks
KERNELQ_TESTS=1     also build _coretest, which reaches the core's inner functions; never shipped
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("KERNELQ_DEBUG") == "1"
SANITIZE = os.environ.get("KERNELQ_SANITIZE", "")
TESTS = os.environ.get("KERNELQ_TESTS") == "1"
VARIANT = SANITIZE.split(",")[0] or ("debug" if DEBUG else "release")
CHECKED = DEBUG or bool(SANITIZE)

WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function"]
OPTIMISE = ["-O1", "-g", "-fno-omit-frame-pointer"] if CHECKED else ["-O2", "-g1"]
SANITIZERS = [f"-fsanitize={SANITIZE}"] if SANITIZE else []
PARTS = [str(path) for path in sorted(Path("kernelq/core").glob("*.px[di]"))]


def extension(name: str) -> Extension:
    return Extension(
        f"kernelq.{name}",
        [f"kernelq/{name}.pyx"],
        depends=PARTS,
        define_macros=[("_GNU_SOURCE", "1"), ("KQ_DEBUG", "1" if CHECKED else "0")],
        extra_compile_args=[*OPTIMISE, *WARNINGS, *SANITIZERS, "-std=gnu11"],
        extra_link_args=[*SANITIZERS, "-pthread"],
    )


setup(
    ext_modules=cythonize(
        [extension(name) for name in ("_core", "_worker", *(["_coretest"] if TESTS else []))],
        build_dir=f"build/cython-{VARIANT}",
        emit_linenums=True,
        compiler_directives={
            "language_level": 3,
            "cdivision": True,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "embedsignature": True,
        },
    )
)
