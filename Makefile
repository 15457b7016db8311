# Two commands, on a fresh Debian machine with Python 3.11, git and make:
#   make quickstart      find a defect: install, fit a detector, print its metrics
#   make test            install what the tests need, run all of them
# `make help` lists the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN    := .venv/bin
NBTEXT := $(BIN)/python tools/nbtext.py
PYTEST := $(BIN)/python -m pytest
DEBIAN := chromium pandoc nodejs fonts-dejavu-core fonts-liberation
FILES  ?=
export PYTHON
# The tools of .venv by name (nbdev-export, jupyter), for recipes and for what the tests start.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help quickstart lab test chapters unit browser install install-test \
        get put export lint docs outputs benchmarks clean

help:                     ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

# ---- use ----------------------------------------------------------------------------------------
install:
	@tools/setup.sh notebook,openvino,onnx

quickstart: install       ## fit a detector on the embedded data, print its metrics (no network once installed)
	@$(BIN)/python -c "from anomalib_nb.cli.quickstart import show_quickstart; show_quickstart()"

lab: install              ## the book in JupyterLab, on this machine only
	@PANEL_INLINE=true $(BIN)/jupyter lab --ip=127.0.0.1 $$([ $$(id -u) != 0 ] || echo --allow-root) \
		nbs/tutorials/00_quickstart.ipynb

# ---- test ---------------------------------------------------------------------------------------
install-test:
	@tools/setup.sh dev $(DEBIAN)

# The chapters and every other test share two workers, and the browser tests form one group, so that
# they follow each other on one of them. What users met (tests/faults) has workers of its own, which
# have not run half of the suite before: a worker that dies there says where, and ends the run.
test: install-test        ## everything: chapters, contracts, floors, lint, docs, tutorials, browser
	@OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 $(PYTEST) -n 2 --dist loadgroup --max-worker-restart 0 --ignore tests/faults
	@OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 $(PYTEST) -n 2 --dist loadgroup --max-worker-restart 0 tests/faults

chapters: install-test    ## the chapters only, each in a process of its own
	@OMP_NUM_THREADS=1 $(PYTEST) -n 2 tests/book/test_chapters.py

unit: install-test        ## everything but the browser and the chapters
	@OMP_NUM_THREADS=1 $(PYTEST) -n 2 -m "not browser and not slow and not gpu" --ignore tests/book/test_chapters.py

browser: install-test     ## JupyterLab and the widgets in a real Chromium
	@$(PYTEST) -m "browser and not slow"

# ---- write --------------------------------------------------------------------------------------
get:                      ## notebooks -> .nbtext/*.py, to edit as text
	@$(NBTEXT) get $(FILES)

put:                      ## edited text -> notebooks -> modules
	@$(NBTEXT) put --export $(FILES)

export:                   ## notebooks -> modules
	@nbdev-export

lint: install-test        ## the book lint and the floors, as a table
	@$(BIN)/ruff check -q tools tests benchmarks
	@$(NBTEXT) check
	@$(BIN)/python tools/floors.py
	@$(BIN)/python tools/book_lint.py $(FILES)

docs: install-test        ## check the site as far as it goes without Quarto, write README.md
	@$(BIN)/python tools/docs_check.py --readme

outputs: install-test     ## run the chapters with kept outputs again, keep what the policy keeps
	@for nb in $(or $(FILES),nbs/index.ipynb nbs/tutorials nbs/models nbs/metrics nbs/visualization nbs/widgets nbs/data nbs/guides nbs/layers); do \
		nbdev-test --n-workers 2 --save $$nb || exit 1; done
	@$(NBTEXT) clean $(FILES)

benchmarks: install       ## speed and memory, as tables in benchmarks/
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:                    ## remove what was generated (not .venv, not results)
	@rm -rf _proc _docs _docs_pandoc build dist shots .pytest_cache .ruff_cache .hypothesis
	@find anomalib_nb tests tools nbs -name __pycache__ -prune -exec rm -rf {} +
