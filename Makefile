# Everything a newcomer needs: `make demo`, `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PYTHONS ?=
DRILL ?= default
BENCH ?= default

.DEFAULT_GOAL := help
.PHONY: help runtime setup .venv-tools demo run test matrix check lint fmt types arch map dist clean drill fuzz explore coverage mutants bench bench-peers clients volume prices lock audit hooks screenshots

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

# Every environment is made by one script, which installs exactly what a lock says and does nothing where that is done.
# With PYTHON given, the environment gets that version, even if there is one that runs already.
HAVE_PYTHON = @command -v $(PYTHON) >/dev/null || { echo "weir: there is no $(PYTHON): apt install python3 python3-venv" >&2; exit 1; }
ENVIRONMENT = @$(PYTHON) tools/environment.py $(if $(filter file,$(origin PYTHON)),,--this-version)

runtime:
	$(HAVE_PYTHON)
	$(ENVIRONMENT) $(VENV) requirements.lock

# `weir`, as a wheel would bring it; it runs what is in this directory.
$(BIN)/weir: deploy/weir | runtime
	@install -m 755 deploy/weir $@

setup: $(BIN)/weir ## the virtual environment with everything that tests and checks need
	$(ENVIRONMENT) $(VENV) requirements.lock requirements-dev.lock

.venv-tools:
	$(HAVE_PYTHON)
	$(ENVIRONMENT) $@ requirements-tools.lock

demo: $(BIN)/weir ## proxy, simulated upstream, streams and plain answers of three formats, their records (ARGS=--once to exit)
	@$(BIN)/weir demo $(ARGS)

run: $(BIN)/weir ## the real thing: gunicorn against OHMYGPT_BASE_URL
	@$(BIN)/weir run $(ARGS)

# Tests wait more than they compute: four processes, also on two cores. Each begins with its share of the tests that start
# servers, whole files of them (tests/conftest.py), and ends with unit tests; the idle take from the busy. What pytest
# makes of each file's asserts is kept, also where the environment says otherwise: all four would make it in each run.
test: setup ## all tests
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 4 --dist worksteal $(ARGS)

explore: setup ## unit tests with other examples than the last time (ARGS="-k shares")
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --hypothesis-profile=explore $(ARGS) tests/unit

coverage: setup ## unit tests, and whether they reach each room as far as they have to
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --hypothesis-profile=mutants --cov --cov-report= $(ARGS) tests/unit
	@$(BIN)/python -m tools.coverage_floors

matrix: setup ## set-up, unit and contract tests, demo on every CPython 3.11-3.14 here (or PYTHONS="python3.12 …")
	@$(BIN)/python -m tools.matrix $(ARGS) $(PYTHONS)

check: setup lint types arch test ## what CI runs: lint, types, architecture, tests, a short drill
	@$(MAKE) --no-print-directory drill DRILL=short

drill: runtime ## kill -9, outages and full disks under load, all books compared (DRILL=short|default|full; full goes on where it was)
	@$(BIN)/python -m drill --level $(DRILL) $(ARGS)

fuzz: ## an hour of coverage-guided fuzzing of all readers (ARGS="--minutes 5 sse"; CPython 3.11 to 3.13)
	$(HAVE_PYTHON)
	$(ENVIRONMENT) .venv-fuzz requirements.lock requirements-dev.lock requirements-fuzz.lock
	@.venv-fuzz/bin/python -m tests.fuzz $(ARGS)

mutants: ## which changes to the code of money and journal do tests not see? (an hour at most; goes on where it was)
	$(HAVE_PYTHON)
	$(ENVIRONMENT) .venv-mutants requirements.lock requirements-dev.lock requirements-mutants.lock
	@nice -n 19 timeout 3600 .venv-mutants/bin/mutmut run --max-children 1 $(ARGS) || test $$? = 124
	@.venv-mutants/bin/mutmut results | grep -v 'not checked' || true

bench: setup ## speed beside nginx and other gateways, everything on (BENCH=short|default|full, ARGS="--figures plain")
	@$(BIN)/python -m bench --level $(BENCH) --json bench.json $(ARGS)

PEERS = .venv-bench-peers

# Each in a place of its own, the light ones first: what fails to install leaves those before it.
bench-peers: ## install the other gateways of the benchmark: Ferro, Shepherd, Portkey, LiteLLM (1.3 GB)
	@test -x /usr/sbin/nginx || echo "nginx is not installed, and will be left out: apt install nginx-light"
	@$(call peer,ferro,ferrogw==1.5.10)
	@$(call peer,shepherd,smg==1.13.0)
	@if command -v npm >/dev/null; then mkdir -p $(PEERS)/portkey && cd $(PEERS)/portkey && \
		npm install --silent --no-fund --no-audit @portkey-ai/gateway@1.15.2; \
		else echo "npm is not installed, so Portkey is left out: apt install npm"; fi
	@$(call peer,litellm,litellm[proxy]==1.106.2)

peer = $(PYTHON) -m venv $(PEERS)/$(1) && $(PEERS)/$(1)/bin/pip install --quiet --disable-pip-version-check '$(2)'

clients: setup ## real clients, installed and run against Weir (ARGS="codex claude-code"; docs/clients.md; needs npm)
	@$(BIN)/python -m tests.clients $(ARGS)

volume: setup ## statistics, pages and a backup of a million records, measured (minutes)
	@$(BIN)/python -m tests.support.a_million
	@$(BIN)/python -m tests.support.ten_thousand_users
	@$(BIN)/python -m tests.support.backup_of_a_million

prices: setup ## models.toml anew, from the genai-prices library and tools/prices.toml; says what changes (ARGS=--check)
	@$(BIN)/python -m tools.make_prices $(ARGS)

lint: setup ## ruff, codespell, and the types of the dashboard's scripts (needs npm; left out, and said so, without)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell
	@$(BIN)/python -m tests.frontend

types: setup ## mypy, strict
	@$(BIN)/mypy

arch: setup ## import contracts: which part may know which
	@$(BIN)/lint-imports
	@$(BIN)/python -m tools.draw_map --check

map: setup ## draw docs/images/rooms.svg anew, after a room has come to know another
	@$(BIN)/python -m tools.draw_map

fmt: setup ## format and fix what can be fixed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# One resolution for all platforms and versions of Python from 3.11 on. What constraints.txt says stays as it is.
COMPILE = .venv-tools/bin/uv pip compile --quiet --native-tls --universal --python-version 3.11 --no-annotate --custom-compile-command "make lock"

lock: .venv-tools ## pin everything anew, with hashes, after requirements*.txt have changed (needs the network)
	@$(COMPILE) requirements-dev.txt -o constraints.txt
	@$(COMPILE) --generate-hashes requirements.txt -o requirements.lock
	@$(COMPILE) --generate-hashes requirements-dev.txt -o requirements-dev.lock
	@$(COMPILE) --generate-hashes requirements-old-sdks.txt -o requirements-old-sdks.lock
	@$(COMPILE) --generate-hashes requirements-tools.txt -o requirements-tools.lock
	@$(COMPILE) --generate-hashes requirements-fuzz.txt -o requirements-fuzz.lock
	@$(COMPILE) --generate-hashes requirements-mutants.txt -o requirements-mutants.lock
	@for name in tests/clients/python/*.txt; do $(COMPILE) --generate-hashes $$name -o $${name%.txt}.lock || exit 1; done
	@for name in tests/clients/node/*/ tests/frontend/; do (cd $$name && npm install --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved --silent) || exit 1; done
	@git --no-pager diff --stat -- constraints.txt '*.lock' '*package-lock.json'

dist: setup ## the wheel and the source distribution, in dist/ (RELEASING.md)
	@$(BIN)/python -m build --no-isolation

hooks: setup .venv-tools ## lint before each commit, by pre-commit
	@.venv-tools/bin/pre-commit install

audit: .venv-tools ## known vulnerabilities of the pinned dependencies (asks the advisory database: needs the network)
	@.venv-tools/bin/pip-audit --require-hashes --disable-pip -r requirements.lock
	@.venv-tools/bin/pip-audit --require-hashes --disable-pip -r requirements-dev.lock
	@.venv-tools/bin/pip-audit --require-hashes --disable-pip -r requirements-tools.lock
	@.venv-tools/bin/pip-audit --require-hashes --disable-pip -r requirements-fuzz.lock
	@.venv-tools/bin/pip-audit --require-hashes --disable-pip -r requirements-mutants.lock

screenshots: setup ## draw the pictures of docs/images anew (needs Chromium)
	@$(BIN)/python -m tests.browser.screenshots

clean: ## remove the virtual environment and caches, keep data
	rm -rf $(VENV) .venv-* .clients dist mutants .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
