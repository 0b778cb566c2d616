# Every target builds what it needs; a fresh machine has python3 (3.11 or newer, with venv) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SLOW := $(addprefix tests/test_,signals.py end_to_end.py dead_letter_queue.py secrets.py children.py)

.PHONY: run dev test quick lint bench chaos fuzz mutants clean

run: $(VENV)/runtime
	$(BIN)/python worker.py -c config.toml --demo 25

# What the tests need, those of your own handlers among them.
dev: $(VENV)/dev

test: lint
	$(BIN)/python -m tests.side_by_side

# What a change needs while it is made: the tests of the modules and the short simulation, a minute and a half.
quick: $(VENV)/dev
	$(BIN)/python -m pytest tests/test_*.py tests/local chaos/test_simulation.py $(SLOW:%=--ignore=%)

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev
	$(BIN)/python -m bench $(SECTIONS)

# Ten minutes of injected faults; CHAOS="--seconds 60 --seed 7" for another run.
chaos: $(VENV)/dev
	$(BIN)/python -m chaos $(CHAOS)

# Bad input of every kind; FUZZ="--kind answers --cases 1000000 --seed 7" for as much of it as you like.
fuzz: $(VENV)/dev
	$(BIN)/python -m tests.fuzz $(FUZZ)

# Do the tests bite? 300 planted bugs, half an hour; MUTANTS="--file millpond/engine/lease.py --sample 50" for some of them.
mutants: $(VENV)/mutants
	$(BIN)/python -m tests.mutation $(MUTANTS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/runtime: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/dev: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@ $(VENV)/runtime

$(VENV)/mutants: requirements-mutants.txt | $(VENV)/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-mutants.txt
	touch $@

clean:
	rm -rf $(VENV) .bench build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
