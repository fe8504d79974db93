# make demo: set up, distil the embedded teacher into a four-step student, say where to look.
# make test: set up, run the tests in two processes (WORKERS=1: one). Both work on a fresh clone with Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
WORKERS ?= 2

.PHONY: demo test lint clean-demo

demo: $(VENV)/installed
	$(BIN)/ddmd distill shapes --out runs/demo $(if $(wildcard runs/demo/recipe.yaml),--resume)
	@echo
	@echo "Look at runs/demo/report.html, and draw something:"
	@echo '  $(BIN)/ddmd sample runs/demo --prompt "a large striped red circle at the left on a gray background" --out circle.png'

test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

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
