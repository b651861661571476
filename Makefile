# Everything runs from .venv, which `setup` makes; $(PYTHON) may name the Python 3.11 or 3.12 to make it with.
SHELL := /bin/sh
VENV := .venv/bin
ARGS ?=

.PHONY: setup test lint demo

setup:
	@for python in $${PYTHON:-python3.12 python3.11 python3}; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then \
	        exec "$$python" -m infra.bootstrap; \
	    fi; \
	done; \
	echo "setup: none of $${PYTHON:-python3.12, python3.11, python3} is a Python 3.11 or 3.12;" \
	    "install one or set PYTHON to one" >&2; \
	exit 2

lint: setup
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/lint-imports

test: lint
	$(VENV)/pytest $(ARGS)

demo: setup
	$(VENV)/longrank demo $(ARGS)
