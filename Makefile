# `make demo` and `make test` work on a fresh Debian or Ubuntu with Python 3.11 or newer; see `make help`.
.DEFAULT_GOAL := help
.PHONY: help venv demo test lint bench paper rivals clean
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# Ray and Dask live apart from obsray: their dependencies are none of ours.
RIVALS := .benchmarks/rivals
PIP_FLAGS := --quiet --disable-pip-version-check
ARGS ?=

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  ARGS="..." is passed on, as in: make demo ARGS=--once'

venv: $(VENV)/.installed  ## .venv with obsray in it

$(BIN)/python:
	scripts/make-venv $(VENV)

# A stamp per set of packages: the second run installs nothing. Without a compiler obsray works, at a higher cost.
SOURCES := pyproject.toml $(wildcard obsray/telemetry/*.c)
$(VENV)/.installed: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable .
	@touch $@

$(VENV)/.installed-test: $(SOURCES) | $(BIN)/python
	@scripts/system-package cc gcc libc6-dev || echo "no C compiler could be installed: the tests of what is written in C will fail"
	@scripts/python-headers $(BIN)/python || echo "no Python.h could be installed: the tests of what is written in C will fail"
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(RIVALS)/.installed: benchmarks/rivals.txt | $(BIN)/python
	scripts/make-venv $(RIVALS)
	$(RIVALS)/bin/python -m pip install $(PIP_FLAGS) --requirement $<
	@touch $@

demo: $(VENV)/.installed  ## real work, checked, and how to look at it (ARGS=--once ends at once)
	@$(BIN)/obsray demo $(ARGS)

test: $(VENV)/.installed-test  ## all tests and checks
	@scripts/system-package chromium chromium || echo "no browser could be installed: the tests of pages will fail; install chromium"
	@scripts/system-package ip iproute2 || echo "no ip command could be installed: the tests between two hosts will fail"
	@scripts/system-package redis-server redis-server || echo "no redis-server could be installed: tests of it will fail"
	@scripts/system-package promtool prometheus || echo "no prometheus could be installed: tests of rules and dashboards will fail"
	@scripts/run-tests $(BIN)/python $(ARGS)

lint: $(VENV)/.installed-test  ## style, types and import contracts only
	$(BIN)/python -m pytest -q tests/test_lint.py tests/test_architecture.py tests/test_tidy.py

rivals: $(RIVALS)/.installed  ## the libraries `make bench` compares with, in an environment of their own

bench: $(VENV)/.installed $(RIVALS)/.installed  ## measure obsray and others, write docs/benchmarks.md (ARGS=--quick)
	$(BIN)/python -m benchmarks --rivals $(RIVALS)/bin/python $(ARGS)

paper: $(VENV)/.installed  ## the Ray paper's experiments as shapes, write docs/paper.md (ARGS="locality --quick")
	$(BIN)/python -m benchmarks.paper $(ARGS)

soak: $(VENV)/.installed  ## mixed load with faults for 10 minutes (ARGS="--minutes 60 --seed 7"), and does it hold
	$(BIN)/python -m benchmarks.soak $(ARGS)

clean:  ## remove everything that was made here, environments included
	rm -rf $(VENV) .benchmarks benchmarks/results build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
	    .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
