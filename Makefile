# Everything runs in .venv, which `make install` builds from the lock. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
DATASET ?= ml-100k
# Tests of one file stay with one worker, in order: they share what is made once. tests/conftest.py says what begins first.
WORKERS ?= 2
SIDE_BY_SIDE = -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help install env demo up down test test-cluster prove-incremental prove-retail prove-backfill prove-switch prove-updates lint lint-python lint-types lint-sql lint-images bench sql lock

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv from the lock (again only when the lock changed)

$(STAMP): requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not there; name another: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "installing the locked requirements into .venv (2 minutes or so)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --requirement requirements.txt
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib || true  # on every core, which pip does not; some files are for other Pythons
	@touch $@

demo: install ## The whole path under a real Airflow, then stop it (DATASET=ml-100k, complete-journey)
	@$(BIN)/python -m include.embedded.demo --dataset $(DATASET)

up: install ## The same, and leave Airflow with its UI running (on a home with your own data: only start it)
	@$(BIN)/python -m include.embedded.demo --dataset $(DATASET) --keep-running

down: install ## Stop Airflow; no process is left
	@$(BIN)/python -m include.embedded.airflow stop

env: ## A .env for docker-compose.yaml, with new secrets
	@sh deploy/new_env.sh

test: install ## The tests, but for those of a cluster and of approvals, or those of MARKS (some start a real scheduler; some need ../shared/data)
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(if $(MARKS),-m "$(MARKS)")

test-cluster: install ## The tests that start Postgres, Redis, an object store and Airflow with Celery workers, on loopback
	@lacking=""; \
	test -n "$$(command -v postgres; ls /usr/lib/postgresql/*/bin/postgres 2>/dev/null)" || lacking="$$lacking postgresql"; \
	command -v redis-server >/dev/null || lacking="$$lacking redis-server"; \
	command -v docker-compose >/dev/null || lacking="$$lacking docker-compose"; \
	test -z "$$lacking" || { echo "error: these Debian packages are missing: apt-get install$$lacking"; exit 2; }
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m cluster

prove-incremental: install ## After any changes of any histories, updates leave what a rebuild gives
	@$(BIN)/python -m pytest tests/test_incremental.py

prove-retail: install ## The same of ten months of Online Retail in weekly batches with corrections (needs ../shared/data)
	@$(BIN)/python -m pytest tests/test_retail.py

prove-backfill: install ## Corrected hours are backfilled under a real scheduler while an hourly run goes on
	@$(BIN)/python -m pytest tests/test_scheduler.py -k backfill

prove-switch: install ## Another encoder as a challenger: shadow, comparison, approval in a real Airflow, switch, way back
	@$(BIN)/python -m pytest -m "not cluster" tests/test_switch_encoder.py tests/test_scheduler.py -k "switch_encoder or history or encoder"

prove-updates: install ## What updates of few users cost beside a rebuild, over the number of users (an hour)
	@$(BIN)/python -m benchmarks.bench_updates

lint: lint-python lint-types lint-sql lint-images ## ruff, import contracts, mypy, sqlfluff, hadolint, compose-lint (-j 2: side by side)

lint-python: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

lint-types: install
	$(BIN)/mypy

lint-sql: install
	PATH="$(CURDIR)/$(BIN):$$PATH" sqlfluff lint dbt_project/models dbt_project/tests

lint-images: install
	$(BIN)/hadolint Dockerfile
	$(BIN)/compose-lint check --quiet docker-compose.yaml

bench: install ## Benchmarks: ratios measured in one run (hours; all but bench_segments, which asks for a home)
	@for file in benchmarks/bench_*.py; do name=$$(basename "$$file" .py); [ "$$name" != bench_segments ] || continue; echo "== $$name"; $(BIN)/python -m "benchmarks.$$name"; done

sql: install ## A DuckDB shell on the lake
	@$(BIN)/python -m include sql

lock: ## Make requirements.txt from requirements.in, in a fresh environment
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(PYTHON) -m venv "$$folder/venv"; \
	"$$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement requirements.in; \
	{ echo "# The full lock, made from requirements.in by 'make lock' with Python 3.11. Change requirements.in, not this."; \
	  "$$folder/venv/bin/python" -m pip freeze --exclude pip --exclude setuptools | sed -E 's/^([A-Za-z0-9._-]+==[^+ ]+)\+[^ ]*$$/\1/'; \
	} > "$$folder/lock"; \
	mv "$$folder/lock" requirements.txt; \
	echo "requirements.txt: $$(grep -c == requirements.txt) packages"
