# Everything runs through these targets. They need python3 (3.11 to 3.13), make and the network.
# The first call makes .venv from the lock; later calls find it up to date in well under a second.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest
ARGS ?=
EXTRA ?=

# One BLAS thread beats two for the matrix sizes here, and leaves the other core to the client.
export OPENBLAS_NUM_THREADS ?= 1
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help env serve test browser fuzz check fast full format lint imports types house workflows \
	test-extras bench bench-peers bench-gguf openclaw sim docs lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: ## Make or update .venv from the lock
	@$(PYTHON) scripts/setup_env.py

serve: env ## Serve the starter model on port 1234; more options in ARGS="..."
	@exec $(VENV)/bin/opta-lmx serve $(if $(findstring --model,$(ARGS)),,--model starter) $(ARGS)

test: env ## Everything that is not slow; ARGS go to pytest, which then runs in one process
ifeq ($(strip $(ARGS)),)
	@echo "$(PYTEST): two processes, then alone what measures time"
	@$(PYTEST) -m "not slow and not alone" -n 2 --dist loadfile; beside=$$?; \
		$(PYTEST) -m "not slow and alone" tests/unit tests/integration tests/chaos && exit $$beside
else
	$(PYTEST) -m "not slow" $(ARGS)
endif

browser: ## Install Chromium for the tests of pages (apt-get, as root on Debian)
	@$(PYTHON) scripts/browser.py

fuzz: env ## Hostile bytes against a running server; ARGS="--seconds 600 --seed 7"
	$(PY) -m tests.security.fuzz_run $(ARGS)

check: lint imports types house workflows ## Format, lint, imports, types, sizes, workflows

fast: check ## Checks, unit tests and key integration tests (each pull request)
	$(PYTEST) -m "not slow" tests/unit tests/integration $(ARGS)

full: check ## Checks, every test, slow ones included, and the performance gate (each night)
	$(PYTEST) $(ARGS)
	$(MAKE) perf-gate ARGS=

format: env ## Rewrite the source in the project's format
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

lint: env
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .

imports: env
	$(VENV)/bin/lint-imports --no-logo

types: env
	$(PY) -m pyright

house: env
	$(PYTEST) tests/unit/house

workflows: env
	$(VENV)/bin/actionlint -color=false .github/workflows/*.yml

test-extras: ## Each extra (or EXTRA=base|gguf|mlx|all|cuda) alone in a clean environment
	$(PYTHON) scripts/test_extras.py $(EXTRA)

bench: env ## Compare this server with the peers that are installed
	$(PY) -m benchmarks.compare $(ARGS)

bench-peers: env ## Eight streams beside mlx_lm.server and vllm-mlx (installed apart): four figures
	$(PY) -m benchmarks.speed $(ARGS)

bench-fleet: env ## Fleets of bots beside background jobs; ARGS: sessions, hog, --bots 12, ...
	$(PY) -m benchmarks.fleet $(ARGS)

soak: env ## Forty bots for ten minutes: no 5xx, no hang, flat memory, honest refusals
	$(PY) -m benchmarks.fleet soak $(ARGS)

perf-gate: env ## Speed against peers and counted work, held to benchmarks/gate/thresholds.toml
	$(PY) -m benchmarks.gate $(ARGS)

bench-gguf: env ## A GGUF model here and on the same engine's own HTTP server
	$(PY) -m benchmarks.gguf $(ARGS)

openclaw: env ## Real OpenClaw turns (npm, pinned) in four modes, with faults; see docs/openclaw.md
	$(PY) -m scripts.openclaw $(ARGS)

sim: env ## The waiting line in simulated time, 10,000 seeds; ARGS=cramped (little memory) or fcfs
	$(PY) -m tests.support.fleet_run 0 10000 $(ARGS)

docs: env ## Write docs/compatibility.md from the contract tests' rows
	$(PY) -m tests.contract.matrix.render

lock: env ## Resolve the dependencies anew into requirements-ci-lock.txt
	$(PY) scripts/lock.py

clean: ## Remove the environments and caches
	rm -rf $(VENV) .venvs .cache .openclaw .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
