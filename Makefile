# Every target does its own set-up in .venv; all it needs is Python 3.10 to 3.12 and a network.
PYTHON ?= python3
# Processes that run the tests; each computes on one thread.
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo quick test check format docs package clean

demo: $(VENV)/installed
	$(BIN)/edgepose demo -o demo

# About a minute: run it before every commit.
quick: check
	$(PYTEST) -m "not slow"

# All that CI runs on the main Python.
test: check
	$(PYTEST)

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pages and pictures that scripts write from the code; tests compare them.
docs: $(VENV)/installed
	$(BIN)/python tools/architecture.py docs/architecture.svg
	$(BIN)/python benchmarks/model_sizes.py --docs docs/models.md

# dist/: the wheel and the source distribution.
package: $(VENV)/installed
	rm -rf build dist
	$(BIN)/python -m build

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info
