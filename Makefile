# One command each: demo, test, check, docs, bench. All of them set up .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test test-all check format docs docs-serve bench clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all]" --group dev
	touch $(STAMP)

demo: $(STAMP)  ## train on the shipped shop log, print the leaderboard, write the report, serve the feed
	$(BIN)/vitrina demo $(ARGS)

test: $(STAMP)  ## the default, offline test suite
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-all: $(STAMP)  ## the slow tests too
	$(BIN)/python -m pytest -n 2 -m "not gpu and not network" $(ARGS)

check: $(STAMP)  ## format, lint, types, floors, size budget
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/budget.py

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)  ## the documentation, with generated pages renewed; any warning fails
	$(BIN)/python tools/config_docs.py
	$(BIN)/python tools/cli_docs.py
	$(BIN)/python tools/bench_tables.py
	$(BIN)/python tools/readme_tables.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(STAMP)
	$(BIN)/mkdocs serve

bench: $(STAMP)  ## make bench (all) or make bench NAME=itemknn
	$(BIN)/python -m benchmarks $(NAME)
	$(BIN)/python tools/bench_tables.py
	$(BIN)/python tools/readme_tables.py

clean:
	rm -rf $(VENV) site dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
