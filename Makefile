# Two commands from nothing: `make build` compiles Swin-T, `make test` runs the tests. Each sets up the virtual
# environment it needs; VENV= and PYTHON= choose another place or interpreter, JOBS= how many tests run at once.

VENV ?= .venv
PYTHON ?= python3
JOBS ?= 2
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check

.PHONY: build test check clean

build: $(VENV)/.core
	$(VENV)/bin/archdsl build specs/swin_t.arch

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m archdsl.syntax.tables --check

clean:
	rm -rf $(VENV) build dist generated

$(VENV)/.core: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -qq -c .ci/constraints.txt -e .
	@touch $@

$(VENV)/.test: $(VENV)/.core
	$(PIP) install -qq -c .ci/constraints.txt -e ".[test]"
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(PIP) install -qq -c .ci/constraints.txt -e ".[dev]"
	@touch $@
