# make demo    everything on this machine: stack, training pipeline, a job, its pictures
# make test    every test, on real parts
# make chaos   two hundred faults at random, half an hour
# make check   ruff, mypy, import contracts, hadolint
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test chaos check install clean

demo: install
	$(BIN)/darkroom demo

test: install
	$(BIN)/pytest

chaos: install
	DARKROOM_CHAOS_FAULTS=$${DARKROOM_CHAOS_FAULTS:-200} $(BIN)/pytest -s --numprocesses=0 tests/chaos

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint Dockerfile

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	test ! -x $(BIN)/darkroom || $(BIN)/darkroom down
	rm -rf .venv .darkroom
