# Every command of the repository. `make` alone lists them; logic lives in tools/*.py.
# Needs make and a Python of 3.11 or later, nothing else. PYTHON=... chooses another interpreter.
.DEFAULT_GOAL := help
PROBE = import sys, venv, ensurepip; sys.version_info >= (3, 11) and print(1)
FOUND = $(foreach p,python3.13 python3.12 python3.11 python3.14 python3,\
	$(if $(shell $p -c '$(PROBE)' 2>/dev/null),$p))
PYTHON = $(or $(firstword $(FOUND)),$(error no Python of 3.11 or later, with venv, on the PATH))
BIN = .venv/bin
XDIST ?= -n auto --maxprocesses 4
STAGES ?= lint imports generated buf types test e2e e2e-jaeger e2e-prometheus faults kills leases takeovers waiters fuzz mutants hostile
RESULTS = .cache/faults-test.json .cache/faults-e2e.json

.PHONY: help setup demo test ci e2e e2e-jaeger e2e-prometheus faults fault-coverage kills sim bench gen generated fmt lint types \
	imports buf proto-accept docs requirements wheels clean screenshots fuzz mutants hostile \
	crowd leases takeovers waiters

help:  ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1|/p' Makefile | awk -F'|' '{ printf "  %-16s%s\n", $$1, $$2 }'

setup: .venv/.dev  ## create .venv from the hash-pinned requirements (does nothing when they are unchanged)

.venv/.%: requirements/%.txt requirements/build.txt */pyproject.toml tools/setup.py
	@$(PYTHON) tools/setup.py $*

demo: .venv/.runtime  ## an agent's day over simulated providers; BREAK=provider causes an outage
	@$(BIN)/escalade demo $(if $(BREAK),--break $(BREAK))

test: setup  ## the fast tests: all but tests/e2e, jaeger, prometheus, kills, leases, takeovers and bench
	@$(BIN)/python tools/programs.py redis-server
	@$(BIN)/pytest $(XDIST) $(addprefix --ignore=tests/,e2e jaeger prometheus kills leases takeovers bench) --fault-results=$(word 1,$(RESULTS))

e2e: setup  ## real processes: server, simulated providers, SDK, command line
	@$(BIN)/python tools/programs.py chromium redis-server
	@$(BIN)/pytest tests/e2e --fault-results=$(word 2,$(RESULTS))

e2e-jaeger: setup  ## traces of a real server, read back from a real Jaeger (built once: minutes)
	@$(BIN)/python tools/jaeger.py
	@$(BIN)/pytest tests/jaeger

e2e-prometheus: setup  ## dashboard and rules on a real Prometheus that scrapes a real server
	@$(BIN)/python tools/programs.py prometheus
	@$(BIN)/pytest tests/prometheus

faults: setup  ## fail if a row of tests/faults/rows.toml has no passing test (after test and e2e)
	@$(BIN)/python tools/fault_coverage.py --check $(RESULTS)

fault-coverage: setup  ## write docs/fault-coverage.md (after test and e2e)
	@$(BIN)/python tools/fault_coverage.py $(RESULTS)

kills: setup  ## kill the store KILLS=10000 times and the whole server SERVER_KILLS=200 times
	@KILLS=$(or $(KILLS),10000) SERVER_KILLS=$(or $(SERVER_KILLS),200) \
		$(BIN)/pytest -o faulthandler_timeout=0 tests/kills

sim: setup  ## simulate SEEDS=400 worlds, or print the trace of one: SEED=12
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),400))

leases: setup  ## 8 processes on a cap of UNITS=100000, leased in chunks: orders cut, kills, no overspend
	@$(BIN)/python tools/programs.py redis-server
	@UNITS=$(or $(UNITS),100000) REPLICAS=$(or $(REPLICAS),8) \
		$(BIN)/pytest -s -o faulthandler_timeout=0 tests/leases

takeovers: setup  ## kill a Redis and a Valkey with unreplicated writes TAKEOVERS=100 times each
	@$(BIN)/python tools/programs.py redis-server
	@TAKEOVERS=$(or $(TAKEOVERS),100) $(BIN)/pytest -s -o faulthandler_timeout=0 tests/takeovers

waiters: setup  ## WAITERS=500 of three agents, all layers shut, RESTARTS=20 (RESTART_KILLS=10), streams cut after CUT_S=15
	@$(BIN)/python -m tests.waiters --waiters $(or $(WAITERS),500) \
		--restarts $(or $(RESTARTS),20) --kills $(or $(RESTART_KILLS),10) \
		--cut-s $(or $(CUT_S),15) --rate $(or $(RATE),1)

crowd: setup  ## 8 processes, 200 callers each on $1, half leaving, on SQLite and Redis: none overspent
	@$(BIN)/python tools/programs.py redis-server
	@$(BIN)/python -m tests.crowd

fuzz: setup  ## fuzz every target by seeded draws, or at random for SECONDS; KEEP=1 keeps finds
	@$(BIN)/python -m tests.fuzz $(if $(SECONDS),--seconds $(SECONDS)) $(if $(KEEP),--keep)

mutants: setup  ## plant ten bugs in a copy of the tree; the tests must catch each
	@$(BIN)/python tools/mutants.py

hostile: setup  ## 68 bad inputs, CALLS=50 at once of each, against one server: memory, stalls, others
	@$(BIN)/python -m tests.hostile --calls $(or $(CALLS),50)

bench: setup  ## CPU microseconds of the server per call and per chunk
	@$(BIN)/python -m tests.bench

ci: setup  ## everything that must pass before a merge, stage by stage
	@KILLS=$(or $(KILLS),500) SERVER_KILLS=$(or $(SERVER_KILLS),20) TAKEOVERS=$(or $(TAKEOVERS),3) CALLS=$(or $(CALLS),10) \
		UNITS=$(or $(UNITS),20000) REPLICAS=$(or $(REPLICAS),4) \
		WAITERS=$(or $(WAITERS),60) RESTARTS=$(or $(RESTARTS),2) CUT_S=$(or $(CUT_S),2) RATE=$(or $(RATE),3) \
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
	@$(BIN)/python -m tests.cli.eventful docs/images

gen: setup  ## write the generated code: stubs, the synchronous client
	@$(BIN)/python protos/generate.py && $(BIN)/python client_sdk/unasync.py
	@$(BIN)/python tools/error_pages.py

generated: setup  ## fail if the generated code is not fresh
	@$(BIN)/python protos/generate.py --check && $(BIN)/python client_sdk/unasync.py --check
	@$(BIN)/python tools/error_pages.py --check

buf: setup  ## lint, format and breaking changes of the protos
	@$(BIN)/buf lint && $(BIN)/buf format --diff --exit-code && $(BIN)/buf breaking --against protos/image.binpb

proto-accept: setup  ## take the protos as they are for the base of breaking-change checks (changelog line!)
	@$(BIN)/buf build --exclude-source-info -o protos/image.binpb

docs: setup  ## write what is made from the code: pages of metrics and log events, dashboard
	@$(BIN)/python tools/telemetry_pages.py && $(BIN)/python tools/dashboard.py

requirements:  ## renew the hash pins (needs uv); UPGRADE=1 takes newer versions
	@$(PYTHON) tools/requirements.py $(if $(UPGRADE),--upgrade)

wheels: setup  ## build both wheels, install them into a clean environment, import every module
	@$(BIN)/python tools/wheels.py

clean:  ## remove everything that can be made again
	rm -rf .venv .cache dist .coverage .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
