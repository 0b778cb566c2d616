# Every target builds what it needs; a fresh machine has python3 (3.11 or newer, with venv) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint bench chaos fuzz clean

run: $(VENV)/runtime
	$(BIN)/python worker.py -c config.toml --demo 25

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev
	$(BIN)/python -m bench $(SECTIONS)

# Ten minutes of injected faults; CHAOS="--seconds 60 --seed 7" for another run.
chaos: $(VENV)/dev
	$(BIN)/python -m tests.chaos $(CHAOS)

# Bad input of every kind; FUZZ="--kind answers --cases 1000000 --seed 7" for as much of it as you like.
fuzz: $(VENV)/dev
	$(BIN)/python -m tests.fuzz $(FUZZ)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/runtime: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/dev: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@ $(VENV)/runtime

clean:
	rm -rf $(VENV) .bench build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
