PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check format lint types boundaries tests bench clean

demo: .venv-demo/installed
	.venv-demo/bin/memplanner check --gpu rtx4090

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2

check: format lint types boundaries tests

format: $(VENV)/installed
	$(BIN)/ruff format --check

lint: $(VENV)/installed
	$(BIN)/ruff check

types: $(VENV)/installed
	$(BIN)/mypy

boundaries: $(VENV)/installed
	$(BIN)/lint-imports

tests: $(VENV)/installed
	$(BIN)/python -m pytest -n 2

bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet ".[bench]"
	$(BIN)/python -m benchmarks.warm
	$(BIN)/python -m benchmarks.cold_start

.venv-demo/installed: pyproject.toml
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

# torch comes first and alone: its CPU build, not the default one with gigabytes of CUDA.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[live,dev]"
	touch $@

clean:
	rm -rf .venv .venv-demo build dist
