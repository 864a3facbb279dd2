# make quickstart and make test set up all they need, on a machine that has only Python.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
RUN ?= runs/quickstart

.PHONY: setup quickstart test test-all wheel-test test-lowest test-newest test-fresh lint docs bench reference clean

setup: $(VENV)/ready

$(VENV)/ready: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || sh scripts/root.sh apt-get install -y -q python3-venv
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --upgrade pip
	$(PY) -m pip install -q -e '.[weights,tune,data,onnx,openvino,quantizer,serve,text,audio,hub,dev,docs]'
	@# Debian packages are downloaded without root, from the lists that apt keeps.
	@ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || sh scripts/root.sh apt-get update -q
	@# Pillow joins the letters of Arabic by it; all but scripts() goes without.
	@$(PY) -c 'import sys; from PIL import features; sys.exit(not features.check("raqm"))' \
		|| sh scripts/root.sh apt-get install -y -q libfribidi0 || true
	@touch $@

quickstart: setup
	$(PY) -m tfx_finetune.train --flagfile=configs/quickstart.cfg --workdir=$(RUN)

test: setup
	$(PY) -m pytest -n 2 --dist worksteal -m 'not slow'

# Lint is for who changes something: other versions of its tools may find what those of CI do not.
# One session: neighbors, which share fixtures, stay together until a worker has nothing left to do.
test-all: setup lint
	$(PY) -m pytest -n 2 --dist worksteal --durations=10

# Before a release: what a stranger gets, and the versions at both ends of what setup.cfg allows.
wheel-test: setup
	$(PY) scripts/wheel_test.py build/wheel-test

test-lowest test-newest: test-%: setup
	$(PY) scripts/lowest_test.py build/$* $* $(PYTHON)

# Debian 13 (trixie) has Python 3.13, Ubuntu 24.04 (noble) 3.12.
SUITE ?= trixie
test-fresh:
	sh scripts/root.sh sh scripts/fresh_test.sh $(SUITE) build/$(SUITE)

lint: setup
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

bench: setup
	for name in trunk pipeline splits scale compression time_to_accuracy; do $(PY) benchmarks/$$name.py || exit 1; done

# The site in build/site, with search; it needs no network.
docs: setup
	$(PY) -m mkdocs build --strict --site-dir build/site

# docs/reference/, of signatures, docstrings and options; a test compares.
reference: setup
	$(PY) scripts/reference.py

clean:
	rm -rf $(VENV) build *.egg-info runs
