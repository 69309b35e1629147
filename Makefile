# `make generate` and `make test` set everything up themselves; only Python 3.11 to 3.13 and make are needed.
# TORCH chooses the torch requirement, e.g. TORCH=torch==2.13.0; PYTHON the interpreter; OUT where crystals go.
PYTHON ?= python3
TORCH ?= torch>=2.6
VENV ?= .venv
OUT ?= crystals
NUM ?= 16

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif

.PHONY: generate test lint types check clean

generate: $(VENV)/.installed
	$(BIN)/crystalsmith generate $(OUT) --num $(NUM) $(if $(wildcard $(OUT)/manifest.json),--resume)
	$(BIN)/crystalsmith evaluate $(OUT)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

check: lint types test

# torch comes first, so that nothing else pulls another build of it.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(PYTHON) -c "open('$(VENV)/.torch', 'w')"

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet -e .
	$(PYTHON) -c "open('$(VENV)/.installed', 'w')"

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	$(PYTHON) -c "open('$(VENV)/.installed', 'w'); open('$(VENV)/.installed-dev', 'w')"

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
