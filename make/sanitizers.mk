# Builds with gcc's sanitizers, beside the others, and runs what they can judge. The interpreter is not
# instrumented, so the run-time library is loaded before it. `make asan STORM=5`: more of everything.

STORM ?= 1
PRELOAD = LD_PRELOAD="$$(gcc -print-file-name=lib$(1).so) $$(gcc -print-file-name=libstdc++.so.6)"
JUDGED := tests/fault/test_hostile_worker.py tests/fault/test_core_storm.py \
	tests/fault/test_pool_storm.py tests/cache
DOORS := $(wildcard tests/fault/test_pool*.py) tests/fault/test_listeners.py

.PHONY: asan tsan

build/asan/made: .venv/made $(wildcard kernelq/*.pyx kernelq/core/*.px[di] tests/doors/*.pxi)
	KERNELQ_SANITIZE=address,undefined KERNELQ_TESTS=1 $(SETUP) build --build-lib build/asan --build-temp build/asan-objects
	touch $@

build/tsan/made: .venv/made $(wildcard kernelq/*.pyx kernelq/core/*.px[di] tests/doors/*.pxi)
	KERNELQ_SANITIZE=thread KERNELQ_TESTS=1 $(SETUP) build --build-lib build/tsan --build-temp build/tsan-objects
	touch $@

asan: build/asan/made
	PYTHONPATH=build/asan KERNELQ_TEST_ROOT=$(CURDIR)/build/asan $(call PRELOAD,asan) KERNELQ_STORM=$(STORM) \
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:disable_coredump=0:log_path=build/asan/report \
	UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1:abort_on_error=1:log_path=build/asan/report \
	$(BIN)/pytest -m "not slow" --timeout 600 tests/unit tests/property $(DOORS) $(JUDGED) $(ARGS)

tsan: build/tsan/made
	PYTHONPATH=build/tsan KERNELQ_TEST_ROOT=$(CURDIR)/build/tsan $(call PRELOAD,tsan) KERNELQ_STORM=$(STORM) \
	TSAN_OPTIONS=halt_on_error=1:exitcode=66:second_deadlock_stack=1 \
	$(BIN)/pytest -m "not slow" --timeout 600 tests/stress $(JUDGED) $(ARGS)
