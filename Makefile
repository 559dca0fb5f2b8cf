# make setup  creates .venv and installs the pinned versions; the others do so too, once
# make demo   trains on drawn faces for a few minutes and writes a page about the result
# make test   runs the test suite
# make faults kills, damages and hinders training runs a thousand times; fails if one is lost or
#             ends unclear (about ten minutes)
# make docs   builds the documentation's pages into site/, to be read with any browser
# make bench  measures the head, the data pipeline and the evaluation against peers (about 35
#             minutes; needs an idle machine)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS := $(VENV)/.docs

.PHONY: setup demo test faults lint types readme docs check bench clean
.DELETE_ON_ERROR:

setup: $(READY)

demo: $(READY)
	$(BIN)/centerarc demo

# Compiled modules are kept even where the environment says otherwise: hundreds of processes import
# them. Work is stolen, so that tests of a file stay together and share what it prepares.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal

faults: $(READY)
	$(BIN)/python -m benchmarks.faults

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(READY)
	$(BIN)/mypy

readme: $(READY)
	$(BIN)/python -m pytest tests/test_readme.py

docs: $(DOCS)
	$(BIN)/python scripts/docs.py
	@echo "The pages are in site/. To search them too: $(BIN)/python -m http.server -d site"

check: test lint types readme docs

bench: $(READY)
	$(BIN)/python -m benchmarks.head --thp --page docs/results/head.md
	$(BIN)/python -m benchmarks.data --page docs/results/data.md
	$(BIN)/python -m benchmarks.speed loader --page docs/results/speed.md
	$(BIN)/python -m benchmarks.speed embed --page docs/results/speed.md
	$(BIN)/python -m benchmarks.evaluation --page docs/results/evaluation.md
	$(BIN)/python -m benchmarks.calibration --page docs/results/calibration.md

clean:
	rm -rf $(VENV) site .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Everything is pinned in constraints.txt, torch in its CPU build where one is offered.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "centerarc needs Python 3.11 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[log,report,parquet,tune,export,hub,detect,serve,postgres]" --group dev
	@touch $(READY)

$(DOCS): $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt --group docs
	@touch $(DOCS)
