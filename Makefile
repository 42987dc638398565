# `make` lists the targets. Everything runs in one environment, $(VENV), built from requirements.lock.

VENV ?= .venv
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; \
	done)
# Absolute, since jobs, DVC and the tests may run elsewhere.
BIN := $(abspath $(VENV))/bin
LOCK := $(shell cksum < requirements.lock | tr -cd '0-9')
STAMP := $(VENV)/.realnet-$(LOCK)
HERE := $(VENV)/.realnet-project
CORES ?= all
PORT ?= 5000

export PATH := $(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

.DEFAULT_GOAL := help
.PHONY: help setup project demo test test-all test-unit test-dag test-faults tables publish mlflow lint format code schema print-python clean

help:  ## list the targets
	@echo "RealNet-Bench. Targets:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22
	@echo "Environment: $(VENV) (change it with VENV=…, its Python with PYTHON=…)"

setup: project  ## build the environment (needs Python >= 3.11, make, git)

# The lock's checksum is part of the stamp's name: a new lock is a new stamp, a new clone is not.
$(STAMP):
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { found=$$($(or $(PYTHON),python3) --version 2>&1 | head -n 1); \
	  echo "make: needs Python 3.11 or newer, found $${found:-none}; install it or set PYTHON=…" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo "make: $(PYTHON) -m venv failed; on Debian install python3-venv" >&2; exit 2; }
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.lock
	@rm -f $(VENV)/.realnet-*
	@touch $@

# The project itself, editable. Several clones may share an environment: the clone that uses it last
# installs itself. Needs no network: the lock contains all build requirements.
project: $(STAMP)
	@test "$$(cat $(HERE) 2>/dev/null)" = "$(CURDIR)" || { \
	  $(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e . \
	  && echo "$(CURDIR)" > $(HERE); }

demo: project  ## run the benchmark on the embedded dataset and print the table
	@echo "RealNet-Bench demo, started $$(date +%H:%M); about 12 minutes on two cores"
	snakemake --cores $(CORES) --rerun-incomplete --quiet rules host reason
	@echo
	@cat results/tables/demo.md 2>/dev/null || cat results/tables/main.md
	@echo
	@echo "Report:   results/report.html (open it in a browser)"
	@echo "Tables:   results/tables/   (main, demo, verdicts, per_category, ablation; csv, md, tex)"
	@echo "Figures:  results/figures/ (summary, overview, and what index.json lists)"
	@echo "          results/evaluate/<dataset>/<category>/seed<k>/<variant>/qualitative.png"
	@echo "Runs:     make mlflow (http://127.0.0.1:$(PORT))"

# Which tests run; `make test-all` empties it.
SELECT := -m "not slow"

test: project  ## unit tests and the real DAG at smoke scale, without the slow ones
	@echo "Two parts, side by side; the output of each follows when it has ended."
	@$(MAKE) -j2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) test-dag test-unit

test-all: project  ## every test, the slow ones, the whole fuzzing and the seeded faults too
	@REALNET_FUZZ=1 $(MAKE) test SELECT=
	@$(MAKE) test-faults

test-unit: project  ## the unit tests alone
	$(BIN)/python -m pytest $(SELECT) tests --ignore=tests/pipeline

test-dag: project  ## the real DAG alone, which all its tests share
	$(BIN)/python -m pytest $(SELECT) tests/pipeline

test-faults: project  ## seeded faults: each must make its test fail (about 10 minutes)
	$(BIN)/python tests/seeded_faults.py

tables: project  ## regenerate tables and figures from the results, without training
	snakemake --cores 1 --quiet rules host reason -- tables
	@cat results/tables/main.md

publish: project  ## run the preset published (40 minutes on two cores) and write results/published/
	snakemake --cores $(CORES) --rerun-incomplete --quiet rules host reason \
	  --config preset=published -- all ablations
	$(BIN)/python -m realnet publish

mlflow: project  ## browse the runs at http://127.0.0.1:5000 (PORT=…)
	@test -e mlflow.db || test -n "$$MLFLOW_TRACKING_URI" || $(BIN)/python -m realnet track --receipt results/tracking/runs.json
	@echo "http://127.0.0.1:$(PORT)   prepared views:"
	@sed -nE 's#.*"(runs|variants|cells)": "(/.*)".*#  \1: http://127.0.0.1:$(PORT)\2#p' results/tracking/runs.json 2>/dev/null || true
	$(BIN)/mlflow --env-file mlflow.env ui --host 127.0.0.1 --port $(PORT) --workers 1

lint: project  ## ruff, mypy, snakemake --lint, snakefmt, fingerprints
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	snakemake --lint
	snakefmt --check Snakefile workflow
	$(BIN)/python -m realnet code --check

format: project  ## reformat with ruff and snakefmt
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	snakefmt Snakefile workflow

code: project  ## write workflow/code: fingerprints of the code of each stage
	$(BIN)/python -m realnet code

schema: project  ## write workflow/schemas/params.schema.yaml
	$(BIN)/python -m realnet params schema > workflow/schemas/params.schema.yaml

print-python:  ## print the path of the environment's interpreter
	@echo $(BIN)/python

clean:  ## delete results, demo data and runs (not the environment)
	rm -rf .snakemake data/raw/demo mlflow.db mlflow.db-shm mlflow.db-wal mlflow.db.lock
	find results -mindepth 1 -maxdepth 1 ! -name README.md ! -name published -exec rm -rf {} +
