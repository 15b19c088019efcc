# One line per target where it fits; docs/HACKING.md says what each is for.
# Other interpreter: make PYTHON=python3.13 ...   Arguments: make serve ARGS="app:application"

PYTHON ?= python3
BIN := .venv/bin
SETUP := $(BIN)/python setup.py -q
PYTEST := $(BIN)/python -m pytest
SECONDS ?= 60

.DEFAULT_GOAL := build
.PHONY: build debug check test slow fault cover annotate lint fuzz bench serve wheel clean

.venv/made: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check "setuptools>=77" "Cython>=3.1"
	KERNELQ_TESTS=1 $(BIN)/pip install -q --disable-pip-version-check --no-build-isolation -e ".[test]"
	touch $@

.venv/made-check: .venv/made
	$(BIN)/pip install -q --disable-pip-version-check -e ".[check]" --no-build-isolation
	touch $@

build: .venv/made
	KERNELQ_TESTS=1 $(SETUP) build_ext --inplace

serve: build
	$(BIN)/kernelq $(ARGS)

test: build
	$(PYTEST) -m "not slow" $(ARGS)

slow: build
	$(PYTEST) -m slow $(ARGS)

fault: build
	$(PYTEST) tests/fault $(ARGS)

debug: .venv/made
	KERNELQ_DEBUG=1 KERNELQ_TESTS=1 $(SETUP) build --build-lib build/debug
	PYTHONPATH=build/debug $(BIN)/pytest -m "not slow" tests/unit tests/property $(ARGS)

check: lint build
	$(PYTEST) tests/test_tidy.py

lint: .venv/made-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH=$(BIN):$$PATH cython-lint kernelq tests fuzz

cover: .venv/made
	CFLAGS=--coverage KERNELQ_TESTS=1 $(SETUP) build --build-lib build/cover --build-temp build/cover-objects
	PYTHONPATH=build/cover $(BIN)/pytest -q -m "not slow" tests/unit tests/property $(ARGS)
	$(BIN)/python tools/cover.py build/cover-objects

annotate: .venv/made
	$(BIN)/python tools/annotate.py build/annotate

fuzz: .venv/made
	$(BIN)/python fuzz/build.py build/fuzz
	mkdir -p build/fuzz/found
	build/fuzz/http1_fuzz -max_total_time=$(SECONDS) -dict=fuzz/http1.dict build/fuzz/found build/fuzz/seeds

bench: build
	$(BIN)/python -m bench.macro.compare $(ARGS)

wheel: .venv/made
	$(BIN)/pip wheel -q --no-deps -w dist .

clean:
	rm -rf build dist *.egg-info kernelq/*.so kernelq/*.c

-include make/*.mk
