# Everything a newcomer needs: `make demo`, `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
DRILL ?= default
BENCH ?= default

.DEFAULT_GOAL := help
.PHONY: help demo run test check lint fmt types arch clean drill bench bench-peers volume lock audit hooks screenshots
UV_VERSION := 0.13.9
PIP_AUDIT_VERSION := 2.10.1
PRE_COMMIT_VERSION := 4.7.0

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

# Two stamps: what runs the product, and what tests and checks need on top of it.
$(VENV)/.runtime: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Weir needs Python 3.11 or newer: set PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the runtime dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	@echo "installing the test dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

demo: $(VENV)/.runtime ## proxy, simulated upstream, two streams, two plain answers, their records (ARGS=--once to exit)
	@$(BIN)/python -m simulator.demo $(ARGS)

run: $(VENV)/.runtime ## the real thing: gunicorn against OHMYGPT_BASE_URL
	@$(BIN)/python -m app.preflight $(BIN)/gunicorn wsgi:app $(ARGS)

test: $(VENV)/.dev ## all tests
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 $(ARGS)

check: $(VENV)/.dev lint types arch test ## what CI runs: lint, types, architecture, tests, a short drill
	@$(MAKE) --no-print-directory drill DRILL=short

drill: $(VENV)/.runtime ## kill -9, outages and full disks under load, all books compared (DRILL=short|default|full)
	@$(BIN)/python -m drill --level $(DRILL) $(ARGS)

bench: $(VENV)/.runtime ## speed beside nginx, LiteLLM, Portkey, everything on (BENCH=short|default|full, ARGS="--figures plain")
	@$(BIN)/python -m bench --level $(BENCH) --json bench.json $(ARGS)

bench-peers: ## install LiteLLM and Portkey for the benchmark, into a directory of their own (1 GB)
	@$(PYTHON) -m venv .venv-bench-peers/litellm
	@.venv-bench-peers/litellm/bin/pip install --quiet --disable-pip-version-check 'litellm[proxy]==1.106.2'
	@mkdir -p .venv-bench-peers/portkey
	@cd .venv-bench-peers/portkey && npm install --silent --no-fund --no-audit @portkey-ai/gateway

volume: $(VENV)/.dev ## statistics and pages of a million records, measured (minutes)
	@$(BIN)/python -m tests.support.a_million

lint: $(VENV)/.dev ## ruff and codespell
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell

types: $(VENV)/.dev ## mypy, strict
	@$(BIN)/mypy

arch: $(VENV)/.dev ## import contracts: which part may know which
	@$(BIN)/lint-imports

fmt: $(VENV)/.dev ## format and fix what can be fixed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# One resolution for all platforms and versions of Python from 3.11 on. What constraints.txt says stays as it is.
COMPILE = .venv-lock/bin/uv pip compile --quiet --native-tls --universal --python-version 3.11 --no-annotate --custom-compile-command "make lock"

lock: ## pin everything anew, with hashes, after requirements*.txt have changed (needs the network)
	@test -x .venv-lock/bin/python || $(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(COMPILE) requirements-dev.txt -o constraints.txt
	@$(COMPILE) --generate-hashes requirements.txt -o requirements.lock
	@$(COMPILE) --generate-hashes requirements-dev.txt -o requirements-dev.lock
	@$(COMPILE) --generate-hashes requirements-old-sdks.txt -o requirements-old-sdks.lock
	@git --no-pager diff --stat -- constraints.txt '*.lock'

hooks: $(VENV)/.dev ## lint before each commit, by pre-commit
	@test -x .venv-hooks/bin/python || $(PYTHON) -m venv .venv-hooks
	@.venv-hooks/bin/python -m pip install --quiet --disable-pip-version-check pre-commit==$(PRE_COMMIT_VERSION)
	@.venv-hooks/bin/pre-commit install

audit: ## known vulnerabilities of the pinned dependencies (asks the advisory database: needs the network)
	@test -x .venv-audit/bin/python || $(PYTHON) -m venv .venv-audit
	@.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==$(PIP_AUDIT_VERSION)
	@.venv-audit/bin/pip-audit --require-hashes --disable-pip -r requirements.lock
	@.venv-audit/bin/pip-audit --require-hashes --disable-pip -r requirements-dev.lock

screenshots: $(VENV)/.dev ## draw the pictures of docs/images anew (needs Chromium)
	@$(BIN)/python -m tests.browser.screenshots

clean: ## remove the virtual environment and caches, keep data
	rm -rf $(VENV) .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
