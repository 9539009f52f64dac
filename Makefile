# Everything a newcomer needs: `make demo`, `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
DRILL ?= default

.DEFAULT_GOAL := help
.PHONY: help demo run test check lint fmt types arch clean drill

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

# Two stamps: what runs the product, and what tests and checks need on top of it.
$(VENV)/.runtime: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Weir needs Python 3.11 or newer: set PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the runtime dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.txt
	@echo "installing the test dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

demo: $(VENV)/.runtime ## proxy, simulated upstream, two streams, two plain answers, their records (ARGS=--once to exit)
	@$(BIN)/python -m simulator.demo $(ARGS)

run: $(VENV)/.runtime ## the real thing: gunicorn against OHMYGPT_BASE_URL
	@$(BIN)/python -m app.preflight $(BIN)/gunicorn wsgi:app $(ARGS)

test: $(VENV)/.dev ## all tests
	@$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev lint types arch test ## what CI runs: lint, types, architecture, tests, a short drill
	@$(MAKE) --no-print-directory drill DRILL=short

drill: $(VENV)/.runtime ## kill -9, outages and full disks under load, all books compared (DRILL=short|default|full)
	@$(BIN)/python -m drill --level $(DRILL) $(ARGS)

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

clean: ## remove the virtual environment and caches, keep data
	rm -rf $(VENV) .venv-old-sdks .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
