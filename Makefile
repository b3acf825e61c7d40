# Needs Python 3.11 or newer with venv, and nothing else. PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
VENV ?= .venv
DEMO_VENV ?= .venv-demo
QUICK_VENV ?= .venv-quick
BIN = $(VENV)/bin

.PHONY: answers action-requirements screens help demo quick test experiments fuzz kills versions check format-check lint types imports pytest format bench grid accuracy record clean

help:
	@echo "make demo    install the core and ask: does the default plan fit an RTX 4090?"
	@echo "make quick   install what needs no torch, and run the tests that need neither torch nor processes: a minute"
	@echo "make test    install everything, with the CPU build of torch, and run every test but the experiments"
	@echo "make experiments  trainings that are long enough to learn something: minutes each"
	@echo "make kills   kills runs of a suite at random moments, and checks what they leave (N=200, SEED=)"
	@echo "make versions  the unit tests on the installed wheel, with every Python, lowest and newest dependencies (PYTHONS=, needs uv)"
	@echo "make check   format, lint, types, import boundaries and tests: what CI runs"
	@echo "make format  rewrite the sources in the house format"
	@echo "make bench   speed, as ratios (learning curves: python -m benchmarks.training)"
	@echo "make accuracy writes docs/accuracy.md: predictions beside measurements and traces"
	@echo "make grid    predictions against traces of 200 plans drawn at random (PLANS=, SEED=)"
	@echo "make answers asks for 1000 plans in every way there is, and compares the answers (N=, SEED=)"
	@echo "make fuzz    readers, writers and commands over hostile inputs (N=1000000, SEED=)"
	@echo "make record  records the forward passes in profiles/recorded anew, and shows what changed (TYPES=)"
	@echo "make screens draws the interface's screens in docs/screens anew"
	@echo "make action-requirements pins what the GitHub action installs (needs uv)"
	@echo "make clean   remove the virtual environments and caches"

demo: $(DEMO_VENV)/.installed
	$(DEMO_VENV)/bin/memplanner check --gpu rtx4090

quick: $(QUICK_VENV)/.installed
	$(QUICK_VENV)/bin/python -m pytest -q -n 2 --dist worksteal -m unit

# All but the experiments: pyproject.toml says so for every run that chooses no marker.
test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal

# make test kills six.
kills: $(VENV)/.installed
	$(BIN)/python -m tests.suite.kills $(or $(N),200) $(SEED)

# PYTHONS="3.11 3.13" tries these; RESOLUTIONS=lowest-direct, or highest, one end alone.
versions:
	.ci/versions $(PYTHONS)

experiments: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m experiment tests/experiments

check: format-check lint types imports pytest

format-check: $(VENV)/.installed
	$(BIN)/ruff format --check

lint: $(VENV)/.installed
	$(BIN)/ruff check

types: $(VENV)/.installed
	$(BIN)/mypy

imports: $(VENV)/.installed
	$(BIN)/lint-imports

pytest: test

format: $(VENV)/.installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e ".[bench]"
	$(BIN)/python -m benchmarks.warm
	$(BIN)/python -m benchmarks.cold_start
	$(BIN)/python -m benchmarks.trace
	$(BIN)/python -m benchmarks.gradnormlorp_step
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.keypress

# The core as a user gets it: a wheel, not a link to this directory.
$(DEMO_VENV)/.installed: pyproject.toml hatch_build.py $(shell find memplanner profiles -name '*.py' -o -name '*.toml' -o -name '*.json' -o -name '*.c')
	$(PYTHON) -m venv --clear $(DEMO_VENV)
	$(DEMO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check .
	@touch $@

# torch by itself first: what comes after would otherwise be free to choose another build.
$(VENV)/.installed: pyproject.toml hatch_build.py memplanner/allocator/allocator.c
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[live,dev]"
	@touch $@

# No torch: what a change to the model itself is tried with.
$(QUICK_VENV)/.installed: pyproject.toml hatch_build.py memplanner/allocator/allocator.c
	$(PYTHON) -m venv --clear $(QUICK_VENV)
	$(QUICK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

# Every reader, writer and command over N hostile inputs; SEED=7 draws others. Each finding is printed with its input's number.
fuzz: $(VENV)/.installed
	$(BIN)/python -m tests.fuzz $(or $(N),100000) $(SEED)

# docs/accuracy.md and its picture.
accuracy: $(VENV)/.installed
	$(BIN)/python -m benchmarks.accuracy

# One answer however it is asked for, of plans drawn at random.
answers: $(VENV)/.installed
	$(BIN)/python -m tests.cli.answers $(or $(N),1000) $(SEED)

# The action's dependencies for every platform and Python from 3.11 on.
action-requirements:
	( echo "# What the GitHub action installs: memplanner's core and its build backend, each with the hashes of its files."; \
	  echo "# Written by \`make action-requirements\`."; \
	  $(PYTHON) -c 'import tomllib; f = tomllib.load(open("pyproject.toml", "rb")); print(*f["project"]["dependencies"], *f["build-system"]["requires"], sep="\n")' \
	  | uv pip compile --universal --generate-hashes --python-version 3.11 --no-header --no-annotate --quiet - ) > requirements-action.tmp
	mv requirements-action.tmp requirements-action.txt

record: $(VENV)/.installed
	$(BIN)/python -m tests.harness.rewrite_recorded $(TYPES)

screens: $(VENV)/.installed
	$(BIN)/python -m tests.tui.screens

# A draw of its own each time; SEED=7 repeats one.
grid: $(VENV)/.installed
	MEMPLANNER_GRID=$(or $(PLANS),200) $(if $(SEED),MEMPLANNER_SEED=$(SEED)) $(BIN)/python -m pytest -q tests/validation/test_grid.py

clean:
	rm -rf $(VENV) $(DEMO_VENV) $(QUICK_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
