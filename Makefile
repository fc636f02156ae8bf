# Two commands do all the set-up, each from a bare clone: `make train` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Processes that test. Compiling, which is most of it, keeps about one core busy; each takes up to 4 GB.
WORKERS ?= 2

# Keras, torch and others that jtrain is measured against; nothing of jtrain needs them. On Linux, PyPI's torch is built
# for CUDA (gigabytes); for the CPU: `PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make bench`, whose
# torch 2.13.0+cpu pip prefers.
BENCH := .venv-bench

.PHONY: train test test-slow faults lint bench bench-quick clean

train: $(VENV)/installed
	$(BIN)/python -m jtrain.main --config=configs/digits.py

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow

faults: $(VENV)/installed-test
	$(BIN)/python -m pytest -m faults -n $(WORKERS) --dist loadfile --durations=0 --durations-min=5

lint: $(VENV)/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed $(BENCH)/installed
	$(BIN)/python benchmarks/report.py --measure

bench-quick: $(VENV)/installed $(BENCH)/installed
	$(BIN)/python benchmarks/quick.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[tensorboard]'
	touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

$(VENV)/installed-lint: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	touch $@

$(BENCH)/installed: benchmarks/requirements.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

clean:
	rm -rf $(VENV) $(BENCH) build dist .pytest_cache .mypy_cache .ruff_cache
