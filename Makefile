PYTHON ?= python3
VENV := .venv
DOCS := .venv-docs
OLDEST := .venv-oldest
OLDEST_TESTS := param registry effects kernels_recursions kernels_fdn kernels_spectral golden_diffvox golden_beafx \
	losses encoders fit runs presets audio decoding settings
PY := $(VENV)/bin/python
SOURCES := $(shell find . -name '*.py' -not -path './.venv*' -not -path './build/*')
# Waiting threads sleep; those that spin take the cores from threads that work.
export OMP_WAIT_POLICY ?= PASSIVE
# Where this is set, every process compiles all of torch again, for 8 s, as pip leaves that to the first import.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test tests-alone test-oldest fuzz kill lint ruff docs clean

demo: $(VENV)/.installed
	$(PY) main.py epochs=60 optimiser.method=annealed start=signals log_dir=logs report=true

# While kernels are compiled on one core, the other installs what the tests need and checks types; tests have both.
test:
	$(MAKE) -j2 build/.kernels build/.types
	$(MAKE) ruff
	$(MAKE) tests-alone

# Damaged files for every reader, and kills at random moments: hours, for the night.
fuzz: $(VENV)/.tested
	$(PY) -m benchmarks.fuzz --inputs 10000

kill: $(VENV)/.tested
	$(PY) -m benchmarks.kill --kills 200

# Each worker begins with a stretch of the list, as neighbouring tests share what takes long to make.
tests-alone: $(VENV)/.tested
	$(PY) -m pytest -n auto --maxprocesses=8 --dist worksteal

# The tests of effects, kernels, losses, fits and files, on the oldest versions that pyproject.toml allows.
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -n auto --maxprocesses=8 $(addprefix tests/test_,$(addsuffix .py,$(OLDEST_TESTS)))

lint: ruff build/.types

ruff: $(VENV)/.tested
	$(VENV)/bin/ruff check .

# Types are checked in the package as it is installed, again when a source has changed: that takes most of a minute.
build/.types: $(VENV)/.tested pyproject.toml $(SOURCES)
	rm -rf build/lint
	$(PY) -m pip install -q --no-deps --no-build-isolation --target build/lint .
	$(VENV)/bin/basedpyright
	touch $@

# The kernels of a fit and its gradients, which workers of the tests would wait for. A fit that fails is left to the tests.
build/.kernels: $(VENV)/.installed $(wildcard afx/kernels/numba_cpu/*.py)
	mkdir -p build
	-$(PY) main.py epochs=1 chunk_duration=1.5 chunk_overlap=0.5 chain.sends.delay.ir_duration=2 \
		chain.sends.reverb.ir_duration=1 align=false check_pair=false device=cpu log_dir=build/kernels > build/kernels.log 2>&1
	touch $@

docs: $(DOCS)/.installed
	$(DOCS)/bin/mkdocs build --strict

# With the project itself, so that the command reknob is there and scripts find it from any folder. Python compiles the
# modules that are imported: pip would compile all on one core, for longer than it takes to unpack them.
$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --no-compile -r requirements.txt
	$(PY) -m pip install -q --no-deps -e .
	touch $@

$(VENV)/.tested: $(VENV)/.installed requirements-dev.txt
	$(PY) -m pip install -q --no-compile -r requirements-dev.txt
	touch $@

$(DOCS)/.installed: requirements-docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install -q -r requirements-docs.txt
	touch $@

# Python 3.11 where it is there, the oldest that pyproject.toml allows.
$(OLDEST)/.installed: tests/oldest.txt
	$(shell command -v python3.11 || echo $(PYTHON)) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install -q --no-compile -r tests/oldest.txt
	touch $@

clean:
	rm -rf $(VENV) $(DOCS) $(OLDEST) build site .pytest_cache .ruff_cache
