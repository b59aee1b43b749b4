# `make` lists the verbs. The two that a newcomer needs are `make run` and `make test`.
SHELL := /bin/sh
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv || echo .tools/bin/uv)
MEMBERS := shared/wire shared/rpc shared/events shared/kit shared/testkit \
           services/controller services/segmentstore services/autoscaler services/tierer \
           client standalone cli
STAMP := $(VENV)/.installed
PROTO := shared/rpc/anabranch_rpc
export UV_PYTHON_DOWNLOADS = never
# Compiled at setup: where Python may not write bytecode (PYTHONDONTWRITEBYTECODE), each start of
# each service would compile all of its libraries again, a second of CPU for a controller.
export UV_COMPILE_BYTECODE = 1

.DEFAULT_GOAL := help
.PHONY: help setup run test test-java test-samples compare-java lint types contracts check format bench simulate lock stubs clean

help:  ## List the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(STAMP)  ## Install everything into .venv (uv comes from PyPI when it is missing)

.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet --disable-pip-version-check uv

$(STAMP): requirements.lock $(foreach member,$(MEMBERS),$(member)/pyproject.toml) | $(UV)
	test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(foreach member,$(MEMBERS),-e $(member))
	$(BIN)/python -m compileall -q $(MEMBERS)
	touch $@

run: setup  ## Start a cluster, replay a night of taxi rides, draw the heat map
	$(BIN)/anabranch demo taxi

test: setup  ## Run all tests (PYTEST_ARGS="-k name" narrows them)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-java: setup  ## Run our programs on the official Java client (needs Maven; NAMES="events tables" narrows them)
	$(BIN)/python tests/compat/run_java.py programs $(NAMES)

compare-java: setup  ## Run the same programs against Pravega's own standalone, and compare
	$(BIN)/python tests/compat/run_java.py compare $(NAMES)

test-samples: setup  ## Run Pravega's own HelloWorld samples (SAMPLES_DIR=their checkout)
	$(BIN)/python tests/compat/run_java.py samples $(or $(SAMPLES_DIR),$(error say where they are: SAMPLES_DIR=folder))

lint: setup  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## Check types (mypy --strict)
	$(BIN)/mypy $(foreach member,$(MEMBERS),$(member))

contracts: setup  ## Check who may import whom
	$(BIN)/lint-imports

check: lint types contracts  ## Lint, types and import contracts

format: setup  ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## Measure writes with fsync beside the disk alone, and appends beside the bare path
	$(BIN)/python benchmarks/write.py
	$(BIN)/python benchmarks/append.py

simulate: setup  ## Run the services in virtual time from seeds (SEEDS=1000, or SEED=n to replay one)
	$(BIN)/python -m anabranch_testkit.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),200))

lock: | $(UV)  ## Make requirements.lock anew (versions and hashes, no address)
	$(UV) lock --quiet
	$(UV) export --quiet --all-packages --all-groups --no-emit-workspace --no-annotate --no-header -o requirements.lock

stubs: setup  ## Generate the gRPC stubs from the contract
	$(BIN)/python shared/rpc/generate.py

clean:  ## Remove what setup and the tests made
	rm -rf $(VENV) .tools .pytest_cache .mypy_cache .ruff_cache .hypothesis
