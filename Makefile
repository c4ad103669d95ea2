# moverq: every target does its own set-up on a fresh machine.
PY ?= python3
BIN := .venv/bin
K ?=

.PHONY: setup servers demo test check bench crash fuzz sim clean

setup: .venv/.ready

.venv/.ready: pyproject.toml
	$(PY) -c 'import sys; sys.exit("moverq needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PY) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

# The real servers that tests talk to are installed, where that can be done without asking.
servers: setup
	@$(BIN)/python -m tests.support.servers

demo: setup
	$(BIN)/moverq demo

test: setup servers
	$(BIN)/pytest -n 2 $(if $(K),-k "$(K)")

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 -q -m "not slow" $(if $(K),-k "$(K)")

crash: setup
	$(BIN)/pytest -n 2 tests/crash $(if $(K),-k "$(K)")

# D: decoders by name (all); N: so many inputs for each, else until stopped.
fuzz: setup
	$(BIN)/python -m pip install --quiet --group fuzz
	$(BIN)/python -m tests.fuzz $(D) $(if $(N),--inputs $(N))

# A few hundred seeds, or the one that SEED names, with its trace.
sim: setup
	$(BIN)/python -m tests.sim $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),300))

bench: setup
	$(BIN)/python -m bench $(B)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
