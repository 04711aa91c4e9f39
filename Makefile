# make demo           run the whole chain on this machine: stack, training pipeline, one job and its images
# make test           run the tests against real Postgres, Valkey, S3 and processes
# make test-long      run the other tests: the demo, whole trainings, killed and frozen processes, large sizes
# make chaos          inject two hundred random faults, and run all tests of hostile clients, requests and deaths; takes an hour
# make gpu            check and measure what a GPU does with Darkroom, in at most eight minutes; without a GPU it does nothing
# make model          look at a million states of the model of the queue; takes minutes
# make check          run ruff, mypy, import contracts, the licence check, hadolint, and checkov on the rendered chart
# make licenses       write the table in docs/licenses.md
# make requirements   write requirements/*.txt, the packages of the images with their hashes, from pyproject.toml
# make chart-readme   write the table in helm/darkroom/README.md from the comments in values.yaml; needs npm
# make clean          stop the local stack; delete it and the environments
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test test-long chaos gpu model check licenses requirements chart-readme install clean

demo: install
	$(BIN)/darkroom demo

test: install
	$(BIN)/pytest -m "not long"

test-long: install
	$(BIN)/pytest -m long

chaos: install
	DARKROOM_CHAOS_FAULTS=$${DARKROOM_CHAOS_FAULTS:-200} $(BIN)/pytest -s --numprocesses=0 tests/chaos tests/hostile \
		tests/integration/services/job_requests/test_malformed.py \
		tests/integration/services/job_queue/test_queue_model.py tests/integration/services/test_exporter_rows.py \
		tests/integration/services/dispatcher/test_killed_finalizing.py tests/unit/services/worker/test_compiled.py \
		tests/unit/services/worker/test_precompile.py

# Only torch 2.11 or newer, diffusers and the packages of darkroom[worker] are needed, so it takes the Python that is there.
gpu:
	$${GPU_PYTHON:-python3} -m tests.benchmarks.gpu --out gpu-results

model: install
	DARKROOM_MODEL_STATES=$${DARKROOM_MODEL_STATES:-1000000} $(BIN)/pytest -s --numprocesses=0 tests/model

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

requirements: .uv/.installed
	for image in slim full build backend; do \
		.uv/bin/uv pip compile requirements/$$image.in --constraint constraints.txt --generate-hashes --universal \
			--python-version 3.12 --no-emit-package darkroom --quiet --custom-compile-command "make requirements" \
			--output-file requirements/$$image.txt || exit 1; \
	done

.uv/.installed: Makefile
	test -x .uv/bin/python || $(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv==0.13.9
	touch $@

chart-readme:
	npx --yes @bitnami/readme-generator-for-helm@2.7.2 --values helm/darkroom/values.yaml --readme helm/darkroom/README.md

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python .ci/install_helm.py $(BIN)
	touch $@

# checkov has its own environment, because it pins older versions of packages that the project uses.
.checkov/.installed: Makefile
	test -x .checkov/bin/python || $(PYTHON) -m venv .checkov
	.checkov/bin/pip install --quiet --disable-pip-version-check checkov==3.3.30
	touch $@

clean:
	test ! -x $(BIN)/darkroom || $(BIN)/darkroom down
	rm -rf .venv .checkov .uv .darkroom
