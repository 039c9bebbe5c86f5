# Everything runs in .venv, which is made when it is missing or the list of packages has changed.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test test-all lint types bench docs clean

.venv/installed: pyproject.toml constraints.txt
	@echo "Installing unetcli and what it needs into .venv: a minute or two."
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || (echo "unetcli needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/installed   ## all six commands on pictures that it makes itself
	@$(BIN)/unetcli demo -o demo

test: .venv/installed   ## the tests, but for the slow ones
	$(BIN)/pytest -n 2 -m "not slow and not gpu"

test-all: .venv/installed
	$(BIN)/pytest -n 2

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

bench: .venv/installed   ## speed and memory beside peers, printed as tables
	@echo "Installing what is compared into .venv: the first time a minute or two."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-binary elasticdeform -e '.[bench-source]' \
		|| echo "elasticdeform could not be built, which needs a C compiler: compared without it."
	$(BIN)/python -m benchmarks

docs: .venv/installed   ## write the options of each command into docs/
	$(BIN)/python docs/generate.py

clean:
	rm -rf .venv demo build dist *.egg-info
