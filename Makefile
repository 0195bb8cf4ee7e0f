# Every command of the repository. `make` alone lists them; logic lives in tools/*.py.
# Needs make and a Python of 3.11 or later, nothing else. PYTHON=... chooses another interpreter.
.DEFAULT_GOAL := help
PROBE = import sys, venv, ensurepip; sys.version_info >= (3, 11) and print(1)
FOUND = $(foreach p,python3.13 python3.12 python3.11 python3.14 python3,\
	$(if $(shell $p -c '$(PROBE)' 2>/dev/null),$p))
PYTHON = $(or $(firstword $(FOUND)),$(error no Python of 3.11 or later, with venv, on the PATH))
BIN = .venv/bin
XDIST ?= -n auto --maxprocesses 4
STAGES ?= lint imports generated buf types test e2e faults kills fuzz mutants hostile
RESULTS = .cache/faults-test.json .cache/faults-e2e.json

.PHONY: help setup demo test ci e2e faults fault-coverage kills sim bench gen generated fmt lint types \
	imports buf proto-accept requirements wheels clean screenshots fuzz mutants hostile

help:  ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1|/p' Makefile | awk -F'|' '{ printf "  %-16s%s\n", $$1, $$2 }'

setup: .venv/.dev  ## create .venv from the hash-pinned requirements (does nothing when they are unchanged)

.venv/.%: requirements/%.txt requirements/build.txt */pyproject.toml tools/setup.py
	@$(PYTHON) tools/setup.py $*

demo: .venv/.runtime  ## an agent's day over simulated providers; BREAK=provider causes an outage
	@$(BIN)/escalade demo $(if $(BREAK),--break $(BREAK))

test: setup  ## the fast tests: all but tests/e2e, tests/kills and tests/bench
	@$(BIN)/python tools/programs.py redis-server
	@$(BIN)/pytest $(XDIST) $(addprefix --ignore=tests/,e2e kills bench) --fault-results=$(word 1,$(RESULTS))

e2e: setup  ## real processes: server, simulated providers, SDK, command line
	@$(BIN)/python tools/programs.py chromium
	@$(BIN)/pytest tests/e2e --fault-results=$(word 2,$(RESULTS))

faults: setup  ## fail if a row of tests/faults/rows.toml has no passing test (after test and e2e)
	@$(BIN)/python tools/fault_coverage.py --check $(RESULTS)

fault-coverage: setup  ## write docs/fault-coverage.md (after test and e2e)
	@$(BIN)/python tools/fault_coverage.py $(RESULTS)

kills: setup  ## kill the store KILLS=10000 times and the whole server SERVER_KILLS=200 times
	@KILLS=$(or $(KILLS),10000) SERVER_KILLS=$(or $(SERVER_KILLS),200) \
		$(BIN)/pytest -o faulthandler_timeout=0 tests/kills

sim: setup  ## simulate SEEDS=400 worlds, or print the trace of one: SEED=12
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),400))

fuzz: setup  ## fuzz every target for SECONDS=10; KEEP=1 keeps what reached new code in the corpus
	@$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),10) $(if $(KEEP),--keep)

mutants: setup  ## plant ten bugs in a copy of the tree; the tests must catch each
	@$(BIN)/python tools/mutants.py

hostile: setup  ## 68 bad inputs, CALLS=50 at once of each, against one server: memory, stalls, others
	@$(BIN)/python -m tests.hostile --calls $(or $(CALLS),50)

bench: setup  ## CPU microseconds of the server per call and per chunk
	@$(BIN)/python -m tests.bench

ci: setup  ## everything that must pass before a merge, stage by stage
	@KILLS=$(or $(KILLS),500) SERVER_KILLS=$(or $(SERVER_KILLS),20) CALLS=$(or $(CALLS),10) \
		$(BIN)/python tools/ci.py $(STAGES)

lint: setup  ## ruff: rules and formatting
	@$(BIN)/ruff check && $(BIN)/ruff format --check

fmt: setup  ## format Python and protos, mend what can be mended
	@$(BIN)/ruff check --fix-only && $(BIN)/ruff format && $(BIN)/buf format -w

types: setup  ## mypy, strict
	@$(BIN)/mypy

imports: setup  ## who may import whom: .importlinter
	@$(BIN)/lint-imports --no-cache

screenshots: setup  ## draw the pictures of the README anew
	@$(BIN)/python tools/programs.py chromium
	@$(BIN)/python -m tests.report.browser docs/images/report.png

gen: setup  ## write the generated code: stubs, the synchronous client
	@$(BIN)/python protos/generate.py && $(BIN)/python client_sdk/unasync.py

generated: setup  ## fail if the generated code is not fresh
	@$(BIN)/python protos/generate.py --check && $(BIN)/python client_sdk/unasync.py --check

buf: setup  ## lint, format and breaking changes of the protos
	@$(BIN)/buf lint && $(BIN)/buf format --diff --exit-code && $(BIN)/buf breaking --against protos/image.binpb

proto-accept: setup  ## take the protos as they are for the base of breaking-change checks (changelog line!)
	@$(BIN)/buf build --exclude-source-info -o protos/image.binpb

requirements:  ## renew the hash pins (needs uv); UPGRADE=1 takes newer versions
	@$(PYTHON) tools/requirements.py $(if $(UPGRADE),--upgrade)

wheels: setup  ## build both wheels, install them into a clean environment, import every module
	@$(BIN)/python tools/wheels.py

clean:  ## remove everything that can be made again
	rm -rf .venv .cache dist .coverage .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
