# `make` lists the targets. Everything is installed into .venv, from requirements.lock.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
OUT ?= runs/demo
BIN := .venv/bin
# A test that hangs fails after so many seconds; one that cannot even be interrupted ends its worker soon after, and both
# show the stacks of their threads.
LIMIT = --timeout $(1) -o faulthandler_timeout=$(2) -o faulthandler_exit_on_timeout=true
STAMP := .venv/.installed

.PHONY: help demo serve test test-slow test-faults test-cluster check docs format lock build clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1|/' | column -t -s '|'

demo: $(STAMP) ## the whole path on sample photographs, or on HAZY=dir CLEAR=dir; OUT=dir, ARGS=flags
	$(BIN)/python -m pipelines.demo --out $(OUT) $(if $(HAZY),--hazy $(HAZY)) $(if $(CLEAR),--clear $(CLEAR)) $(ARGS)

serve: $(STAMP) ## the champion of the last demo over HTTP, until Ctrl-C; OUT=dir, ARGS=flags
	$(BIN)/python -m serving --out $(OUT) $(ARGS)

test: $(STAMP) ## the default tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(call LIMIT,600,900)

test-slow: $(STAMP) ## the tests that take longer; SLOW=files for some of them
	$(BIN)/python -m pytest -m slow -rs --durations 6 --numprocesses 2 --dist loadfile $(call LIMIT,1500,1800) $(SLOW)

test-faults: $(STAMP) ## the tests that kill processes, fill disks and take nodes away; FAULTS=files for some of them
	$(BIN)/python -m pytest -m faults -rPs --durations 6 --numprocesses 2 --dist loadfile $(call LIMIT,1500,1800) $(FAULTS)

test-cluster: $(STAMP) ## the tests on several hosts, which they make themselves (root, iproute2); CLUSTER=files for some of them
	$(BIN)/python -m pytest -m cluster -rPs --durations 6 $(call LIMIT,1500,1800) $(if $(CLUSTER),$(CLUSTER),tests/cluster)

check: $(STAMP) ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini
	$(BIN)/lint-imports

docs: $(STAMP) ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(STAMP) ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(STAMP) ## pin the dependencies of pyproject.toml anew
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-annotate --no-emit-index-url --custom-compile-command "make lock" -o requirements.lock

build: $(STAMP) ## wheel and sdist, into dist/
	$(BIN)/uv build --python $(BIN)/python --no-build-isolation

clean: ## remove caches, not .venv and not runs
	rm -rf site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@
