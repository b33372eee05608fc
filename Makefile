# Everything runs in .venv, made from python3 and requirements.lock; nothing else has to be installed.
PYTHON ?= python3
BIN := .venv/bin
# Where the servers keep their state, and where they listen.
STATE ?= $(CURDIR)/data/store
PREFECT_PORT ?= 4200
MLFLOW_PORT ?= 5000
export PREFECT_HOME ?= $(STATE)/prefect

.PHONY: run serve stop test test-slow test-browser lint format bench-quality bench-languages bench-speed bench-bulk bench-gpu bench-faults bench-gate bench-start bench-ledger lock clean

# Prefect makes its home, but not the folder above it.
run: .venv/runtime
	mkdir -p $(PREFECT_HOME)
	$(BIN)/python -m flows.demo $(ARGS)

serve: .venv/runtime
	$(BIN)/python -m deploy.serve start --state $(STATE) --prefect-port $(PREFECT_PORT) --mlflow-port $(MLFLOW_PORT)

stop: .venv/runtime
	$(BIN)/python -m deploy.serve stop --state $(STATE)

test: .venv/dev
	$(BIN)/python -m pytest --numprocesses 4 --dist worksteal

test-slow: .venv/dev
	$(BIN)/python -m pytest -m slow --timeout=1800 --numprocesses 2 --dist loadfile

test-browser: .venv/dev
	.ci/chromium
	$(BIN)/python -m pytest -m browser --timeout=900

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-quality: .venv/benchmarks
	$(BIN)/python -m benchmarks.quality $(ARGS)

bench-languages: .venv/benchmarks
	$(BIN)/python -m benchmarks.languages $(ARGS)

bench-speed: .venv/benchmarks
	$(BIN)/python -m benchmarks.speed $(ARGS)

bench-bulk: .venv/benchmarks
	$(BIN)/python -m benchmarks.bulk $(ARGS)

bench-gpu: .venv/benchmarks
	$(BIN)/python -m benchmarks.gpu $(ARGS)

bench-gate: .venv/dev
	$(BIN)/python -m benchmarks.gate $(ARGS)

bench-start: .venv/dev
	$(BIN)/python -m benchmarks.start $(ARGS)

bench-ledger: .venv/dev
	$(BIN)/python -m benchmarks.ledger $(ARGS)

bench-faults: .venv/dev
	$(BIN)/python -m benchmarks.faults $(ARGS)
	$(BIN)/python -m benchmarks.bad_days $(ARGS)

# The stamps make an install happen once per change of the lock.
.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/runtime: requirements.lock pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable . --constraint requirements.lock
	touch $@

.venv/dev: requirements.lock pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint requirements.lock
	touch $@ .venv/runtime

.venv/benchmarks: requirements.lock pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[benchmarks]' --constraint requirements.lock
	touch $@ .venv/runtime

lock: | .venv/bin/python
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --upgrade --extra dev --extra benchmarks --strip-extras --no-header \
		--no-emit-index-url --no-emit-find-links --no-emit-options --constraint constraints.txt --output-file requirements.lock pyproject.toml
	sed -i.orig -E -e '/^sentiment-pipeline @/d' -e 's/^(torch==[^+ ]*)\+[a-z0-9.]+/\1/' -e '1e grep "^\\#" constraints.txt' requirements.lock
	rm requirements.lock.orig

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
