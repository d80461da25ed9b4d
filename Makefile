# What people type. `make help` lists it.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV := .venv
BIN := $(VENV)/bin
# On two cores, too: for half of their time the tests wait for the processes that they start.
PYTEST := $(BIN)/pytest -n $(shell n=$$(getconf _NPROCESSORS_ONLN) && echo $$((n > 4 ? n : 4))) --dist loadgroup

.DEFAULT_GOAL := help
# A virtual environment that could not be finished is begun anew, not taken for one.
.DELETE_ON_ERROR:
.PHONY: help run test test-long check format bench chaos clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

run: $(VENV)/.installed  ## set up and start everything, with the sample photos
	@$(BIN)/cl-server up --dir .cl-server --import examples/photos

test: $(VENV)/.installed-dev check  ## set up and run lint, types, contracts and the quick tests
	$(PYTEST) -m "not long" --cov --cov-report=term:skip-covered

test-long: $(VENV)/.installed-dev  ## run the tests that take longer as well
	$(PYTEST) -m "long or not long" --timeout 900

check: $(VENV)/.installed-dev  ## lint, types and import contracts
	$(BIN)/ruff check src tests bench chaos examples
	$(BIN)/ruff format --check src tests bench chaos examples
	$(BIN)/mypy --python-version 3.10 src/cl_ml_tools src/cl_server_shared
	$(BIN)/mypy --python-version 3.11 src/cl_server
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## format the code
	$(BIN)/ruff format src tests bench chaos examples
	$(BIN)/ruff check --fix src tests bench chaos examples

bench: $(VENV)/.installed-bench  ## measure beside other queues for forty minutes, and write bench/results/
	@failed=0; for part in bench "bench.waking --all" bench.held_transaction; do \
		$(BIN)/python -m $$part || failed=1; done; exit $$failed

chaos: $(VENV)/.installed-dev  ## five minutes of kills on each database; the counts are kept in chaos/results/
	$(BIN)/python -m chaos --database sqlite --minutes 5
	$(BIN)/python -m chaos --database postgresql --minutes 5

clean:  ## remove what was built; the data in .cl-server stays
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .coverage htmlcov

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "CL Server needs Python 3.11 or later, with venv: none is on PATH"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing: on Debian, apt-get install python3-venv"; exit 2; }

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV) (once, about a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[server]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,bench]"
	@touch $@
