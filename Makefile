# make demo: set up, distil the embedded teacher into a four-step student, say where to look.
# make test: set up, run the tests. Both work on a fresh clone with Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint clean-demo

demo: $(VENV)/installed
	$(BIN)/ddmd distill shapes --out runs/demo $(if $(wildcard runs/demo/recipe.yaml),--resume)
	@echo
	@echo "Look at runs/demo/report.html, and draw something:"
	@echo '  $(BIN)/ddmd sample runs/demo --prompt "a large striped red circle at the left on a gray background" --out circle.png'

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	@touch $@
