# All commands of the house. Each makes its own virtual environment first; a second call is instant.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PROJECT := pyproject.toml constraints.txt hatch_build.py $(wildcard matconvnet/fast/kernels/*.[ch])
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test check bench clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/installed ## train LeNet to read digits, about a minute; results in runs/demo
	$(BIN)/matconvnet train lenet --out runs/demo

test: $(VENV)/installed-dev ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES)

check: $(VENV)/installed-dev ## format, lint, types and tests: what must pass before a commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	@$(MAKE) --no-print-directory test

bench: $(VENV)/installed ## measure speed; ARGS=--full for everything
	$(BIN)/python benchmarks/bench.py $(ARGS)

clean: ## remove the environment, the results of the demo, and caches
	rm -rf $(VENV) runs/demo build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is wanted; name one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(PROJECT) | $(VENV)/created
	$(PIP) -e .
	@touch $@

$(VENV)/installed-dev: $(PROJECT) | $(VENV)/created
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/installed
