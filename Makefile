# keymill. `make` lists the targets; a fresh machine needs Python 3.11-3.13 with venv and pip, git and make.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 && \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
ARGS ?=
T ?= tests

.DEFAULT_GOAL := help
.PHONY: help dev demo drill test soak lint bench docs lock clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | while IFS="	" read -r n t; do printf '  make %-8s %s\n' "$$n" "$$t"; done

.venv/ready: requirements.lock pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "keymill needs Python 3.11, 3.12 or 3.13 on the PATH; none was found" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv: install it (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@echo "installing the locked dependencies into .venv" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

dev: .venv/ready ## make the environment: .venv with keymill in it

demo: .venv/ready ## run the main job: event, keys, packager, license, playback (ARGS=--serve leaves the page up)
	@$(BIN)/python -m keymill.ops.demo $(ARGS)

test: .venv/ready ## set everything up and pass the tests (T=tests/unit for a part)
	@$(BIN)/python -m tests.prepare
	@$(BIN)/python -m pytest $(T) $(ARGS)

soak: .venv/ready ## search for an hour or more: four times the examples, 20,000 assets, twins (T=tests/unit for a part)
	@$(BIN)/python -m tests.prepare
	@HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -m "soak or hypothesis" --timeout 3600 $(T) $(ARGS)

lint: .venv/ready ## ruff, mypy --strict, import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

drill: .venv/ready ## lose everything derived under load and get it back (ARGS="--assets 20000")
	@$(BIN)/python -m keymill.ops.drill $(ARGS)

bench: .venv/ready ## measure: throughput, latency, bootstrap, licenses; prints a table and JSON
	@$(BIN)/python -m benchmarks $(ARGS)

docs: .venv/ready ## write the generated pages of docs/ again
	@$(BIN)/python -m keymill.ops.docs

lock: .venv/ready ## resolve the dependencies again into the two lock files
	@$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --upgrade --quiet --custom-compile-command "make lock" -o requirements.lock
	@$(BIN)/uv pip compile pyproject.toml --extra build --constraint requirements.lock --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --quiet --custom-compile-command "make lock" -o requirements-run.lock

clean: ## remove the environment and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
