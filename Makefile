PYTHON ?= python3
VENV := .venv
DOCS := .venv-docs
PY := $(VENV)/bin/python
# Waiting threads sleep; those that spin take the cores from threads that work.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test lint docs clean

demo: $(VENV)/.installed
	$(PY) main.py epochs=100 optimiser.method=annealed log_dir=logs

test: $(VENV)/.tested
	$(PY) -m pytest -n auto --maxprocesses=8

lint: $(VENV)/.tested
	$(VENV)/bin/ruff check .
	rm -rf build/lint
	$(PY) -m pip install -q --no-deps --no-build-isolation --target build/lint .
	$(VENV)/bin/basedpyright

docs: $(DOCS)/.installed
	$(DOCS)/bin/mkdocs build --strict

# With the project itself, so that the command reknob is there and scripts find it from any folder.
$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -r requirements.txt
	$(PY) -m pip install -q --no-deps -e .
	touch $@

$(VENV)/.tested: $(VENV)/.installed requirements-dev.txt
	$(PY) -m pip install -q -r requirements-dev.txt
	touch $@

$(DOCS)/.installed: requirements-docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install -q -r requirements-docs.txt
	touch $@

clean:
	rm -rf $(VENV) $(DOCS) build site .pytest_cache .ruff_cache
