# make demo    table and report page of teacher, student alone and students with KD on embedded images, in minutes
# make test    ruff and pytest, all of it      make quick     what is fast, while one works
# make lint    ruff alone          make format    let ruff rewrite
# make bench   speed beside the loop that most projects have, and where the time of the demo goes
# Each makes the virtual environment .venv first where it is not there.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

# With pipefail, a program that fails in front of a pipe ends make, too.
SHELL := bash
.SHELLFLAGS := -o pipefail -c

.PHONY: demo test quick lint format bench

demo: $(VENV)/.installed
	$(RUN) train.py --all --dataset shapes --resume
	$(RUN) test.py --all --dataset shapes | sed '$$d'

test: lint
	$(RUN) -m pytest -n 2 --dist loadfile

quick: lint
	$(RUN) -m pytest -n 2 --dist loadfile -m "not slow"

lint: $(VENV)/.installed-tests
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(VENV)/.installed-tests
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(VENV)/.installed
	$(RUN) -m benchmarks.throughput
	$(RUN) -m benchmarks.table
	$(RUN) -m benchmarks.scaling

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo 'error: Python 3.10 or newer is needed (hint: make PYTHON=/path/to/python3.12)'; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(RUN) -m pip install -q -r requirements.txt
	@touch $@

$(VENV)/.installed-tests: tests/requirements.txt $(VENV)/.installed
	$(RUN) -m pip install -q -r tests/requirements.txt
	@touch $@
