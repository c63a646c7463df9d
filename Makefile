SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
PYTHON_IN_VENV := $(BIN)/python
STACK ?= $(shell bash scripts/compose.sh answers && echo compose || echo local)

.PHONY: help setup up down status secrets definitions demo monitor test lint type format bench quality chaos figures soak scale fuzz lock clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

setup: ## install what is missing: Debian packages (as root) and .venv from the lock
	@bash scripts/setup.sh

demo: setup ## set up, start here, process a simulated observation and compare with the truth; DEMO=transients for a search
	@$(MAKE) up STACK=local
	@$(PYTHON_IN_VENV) -m stdweb.demo $(DEMO)

up: ## start all of it: in containers where a Docker engine answers, else as local processes; STACK=compose or local says which
	@case "$(STACK)" in \
	compose) bash scripts/compose.sh up ;; \
	*) test -e .venv/.installed || { echo "Nothing is installed yet: run 'make setup' first." >&2; exit 1; }; \
	   $(PYTHON_IN_VENV) -m stdweb.stack up ;; \
	esac

down: ## end what `make up` started
	@test ! -x $(PYTHON_IN_VENV) || $(PYTHON_IN_VENV) -m stdweb.stack down
	@if bash scripts/compose.sh answers; then bash scripts/compose.sh down; fi

status: ## say what runs
	@if [ "$(STACK)" = compose ]; then status=0; bash scripts/compose.sh status || status=$$?; \
	[ $$status = 3 ] || exit $$status; fi; \
	test -x $(PYTHON_IN_VENV) || { echo "Nothing runs. Start it: make up" >&2; exit 3; }; \
	$(PYTHON_IN_VENV) -m stdweb.stack status

secrets: ## make the passwords of the stack in containers: deploy/compose/.env; what is there stays
	@python3 scripts/make_secrets.py

definitions: ## renew what deploy/ says about the broker from shared/broker
	@$(PYTHON_IN_VENV) -m shared.broker.definitions > deploy/compose/rabbitmq/definitions.json
	@$(PYTHON_IN_VENV) -m shared.broker.resources > deploy/k8s/base/broker/users.yaml

monitor: ## Prometheus beside the stack, in the foreground, with our alerts: http://localhost:9090/alerts
	@$(PYTHON_IN_VENV) -m stdweb.stack monitor

test: ## run every test, with what they need
	@bash scripts/setup.sh tests
	@$(PYTHON_IN_VENV) -m pytest --numprocesses=2

lint: setup ## style and import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo

type: setup ## static types
	@$(BIN)/mypy

format: setup ## reformat and mend what the linter can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup ## speed and memory beside a plain sequence of STDPipe calls
	@set -e; for file in bench/bench_*.py; do echo "== $$file"; $(PYTHON_IN_VENV) "$$file"; done

quality: setup ## results against simulated truth; what difference images give is kept in docs/quality.md
	@status=0; for file in quality quality_difference; do echo "== bench/$$file.py"; \
	$(PYTHON_IN_VENV) "bench/$$file.py" || status=1; done; exit $$status

chaos: ## faults against a whole stack, and a judge of what is left; FAULTS=15 SEED=1 KINDS=... (docs/reliability.md)
	@bash scripts/setup.sh tests
	@$(PYTHON_IN_VENV) -m tests.chaos --faults "$${FAULTS:-15}" --seed "$${SEED:-1}" $${KINDS:+--kinds "$$KINDS"} \
	    $${TABLE:+--table "$$TABLE"} --state ".stdweb/chaos-$${SEED:-1}.json"

figures: ## how long it takes to get over a dead broker, worker and gateway, on a machine with nothing else to do
	@bash scripts/setup.sh tests
	@$(PYTHON_IN_VENV) -m tests.chaos --figures --faults "$${FAULTS:-12}" --seed "$${SEED:-1}"

soak: ## a steady load for MINUTES=30: the memory of every process must stay (docs/reliability.md)
	@bash scripts/setup.sh tests
	@$(PYTHON_IN_VENV) -m tests.chaos.soak --minutes "$${MINUTES:-30}" --seed "$${SEED:-1}"

scale: setup ## throughput against the number of workers, a burst of 10,000 steps, the cost of a step (docs/scaling.md)
	@$(PYTHON_IN_VENV) bench/scale.py

fuzz: setup ## hostile FITS files against all that reads files of strangers; FILES=1000 SEED=1, or guided: TARGET=crop EXECUTIONS=50000
	@seed="$${SEED:-$$(date +%s)}"; echo "SEED=$$seed"; export OPENBLAS_NUM_THREADS=1; \
	if [[ -z "$${TARGET:-}" ]]; then $(PYTHON_IN_VENV) -W ignore -m tests.support.fuzzing "$$seed" "$${FILES:-1000}"; exit; fi; \
	tools=.stdweb/fuzz/tools; test -d "$$tools" || $(PYTHON_IN_VENV) -m pip install --quiet --quiet \
	    --disable-pip-version-check --require-hashes --target "$$tools" --requirement tests/support/fuzzing.lock; \
	PYTHONPATH=".:$$tools" $(PYTHON_IN_VENV) -W ignore -m tests.support.fuzzing_guided "$$TARGET" \
	    --seed "$$seed" --executions "$${EXECUTIONS:-50000}"

lock: ## renew requirements.lock, and the parts of it that the images hold, from pyproject.toml
	@tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	python3 -m venv "$$tools"; \
	"$$tools/bin/pip" install --quiet --disable-pip-version-check uv; \
	compile=("$$tools/bin/uv" pip compile pyproject.toml --quiet --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate); \
	"$${compile[@]}" --all-extras --output-file requirements.lock; \
	part() { image=$$1; shift; "$${compile[@]}" --constraint requirements.lock "$$@" --output-file "deploy/docker/$$image.lock"; }; \
	part gateway --extra gateway --extra cli --extra tracing; part worker --extra steps --extra cli --extra tracing; \
	part preview --extra preview --extra tracing

clean: down ## end the stack; remove .venv, its state with all tasks, and caches
	@rm -rf .venv .stdweb .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
