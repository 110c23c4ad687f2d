# Everything runs in its own virtual environment; the first target that needs it makes it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
WORKERS ?= 2
export OMP_NUM_THREADS ?= $(if $(filter test slow,$(MAKECMDGOALS)),1,2)

.PHONY: demo test slow check fmt bench docs

demo: $(VENV)/core                ## the whole job on the bundled model; ends with a report
	$(BIN)/ropewalk demo

test: $(VENV)/dev                 ## the default suite, a few minutes on two cores
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not gpu"

slow: $(VENV)/dev                 ## what takes longer
	$(BIN)/python -m pytest -n $(WORKERS) -m "slow and not gpu"

check: $(VENV)/dev                ## lint, format, types, rendered docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/render.py --check

fmt: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/dev                 ## methods table and results in README and docs
	$(BIN)/python docs/render.py

bench: $(VENV)/dev                ## speed, ours against the plain way, into benchmarks/results
	for name in $(basename $(notdir $(wildcard benchmarks/*.py))); do \
	  $(BIN)/python benchmarks/$$name.py --json benchmarks/results/$$name.json || exit 1; done

$(VENV)/core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'ropewalk needs Python 3.10 or later: make PYTHON=/path/to/python3.12 ...'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/dev: $(VENV)/core
	$(PIP) --editable '.[dev]'
	touch $@
