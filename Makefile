# The two commands of the README, and what they are made of. Needs Python >= 3.11, pip and make.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help install install-dev quickstart test recipes lint docs migration bench clean

help:
	@echo "make quickstart   install, then train a real model by reinforcement: minutes on a laptop"
	@echo "make test         install, then format, lint, types and all tests"
	@echo "make recipes      train each recipe with three seeds and write its result: hours"
	@echo "make bench        ours and TRL's GRPOTrainer side by side, and the machine's limits: hours"
	@echo "make migration WHAT=..."
	@echo "                  draft the database's next step from jobs/tables.py"
	@echo "make docs         rebuild the generated pages"

install: .venv/installed
install-dev: .venv/installed-dev

# constraints.txt pins every version, torch 2.13.0 among them.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: install
	$(BIN)/tunestone quickstart

test: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile

recipes: install
	$(BIN)/python benchmarks/recipes.py

docs: install-dev
	$(BIN)/python docs/generate.py

migration: install-dev
	$(BIN)/python -m tunestone.jobs.migrations "$(WHAT)"

# One environment for both sides, so that torch, transformers and peft are the same.
BENCH := .venv-bench/bin
.venv-bench/installed: pyproject.toml constraints.txt benchmarks/requirements.txt benchmarks/requirements-llama.txt
	$(PYTHON) -m venv .venv-bench
	$(BENCH)/pip install --quiet --disable-pip-version-check -c constraints.txt -e . -r benchmarks/requirements.txt
	-$(BENCH)/pip install --quiet --disable-pip-version-check -c constraints.txt -r benchmarks/requirements-llama.txt
	@touch $@

bench: .venv-bench/installed
	$(BENCH)/python benchmarks/vs_trl.py
	$(BENCH)/python benchmarks/limits.py
	$(BENCH)/python benchmarks/vs_trl.py --learning
	$(BENCH)/python benchmarks/performance_page.py

clean:
	rm -rf .venv .venv-bench build dist .pytest_cache .mypy_cache .ruff_cache
