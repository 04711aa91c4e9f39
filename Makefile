# make demo    everything on this machine: stack, training pipeline, a job, its pictures
# make test    every test, on real parts
# make chaos   two hundred faults at random, half an hour
# make check   ruff, mypy, import contracts, hadolint, checkov
# make chart-readme   the table of the chart's values, of the comments in values.yaml; needs npm
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test chaos check licenses chart-readme install clean

demo: install
	$(BIN)/darkroom demo

test: install
	$(BIN)/pytest

chaos: install
	DARKROOM_CHAOS_FAULTS=$${DARKROOM_CHAOS_FAULTS:-200} $(BIN)/pytest -s --numprocesses=0 tests/chaos

check: install .checkov/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python .ci/licenses.py --check
	$(BIN)/hadolint Dockerfile
	$(BIN)/python .ci/check_chart.py $(BIN)/helm .checkov/bin/checkov

licenses: install
	$(BIN)/python .ci/licenses.py

chart-readme:
	npx --yes @bitnami/readme-generator-for-helm@2.7.2 --values helm/darkroom/values.yaml --readme helm/darkroom/README.md

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python .ci/install_helm.py $(BIN)
	touch $@

# Of its own: it pins older versions of what the project uses itself.
.checkov/.installed: Makefile
	test -x .checkov/bin/python || $(PYTHON) -m venv .checkov
	.checkov/bin/pip install --quiet --disable-pip-version-check checkov==3.3.30
	touch $@

clean:
	test ! -x $(BIN)/darkroom || $(BIN)/darkroom down
	rm -rf .venv .checkov .darkroom
