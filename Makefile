# `make demo` and `make test` need Python 3.11 or later, git and make, and set up all the rest.
PYTHON ?= python3
BIN := .venv/bin
RUN := demo_run

.PHONY: demo test test-all test-device test-machines fuzz check format clean

demo: .venv/run
	$(BIN)/python train.py --config=configs/demo.py:lenet5 --workdir=$(RUN)/lenet5
	$(BIN)/python train.py --config=configs/demo.py:vgg_fixed --workdir=$(RUN)/vgg_fixed
	$(BIN)/python train.py --config=configs/demo.py:vgg_jitter --workdir=$(RUN)/vgg_jitter \
		--config.init_from=$(RUN)/vgg_fixed
	$(BIN)/python eval.py --table=demo --runs=$(RUN)
	@echo
	@echo "Checkpoints, metrics.jsonl and tensorboard/: $(RUN)/lenet5, $(RUN)/vgg_fixed, $(RUN)/vgg_jitter"
	@echo "The tables above: $(RUN)/table_demo.md"
	@echo "Next: $(BIN)/python eval.py --config=configs/demo.py:vgg_jitter --workdir=$(RUN)/vgg_jitter --protocol=dense_multiscale"

test: .venv/dev
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

test-all: .venv/dev
	$(BIN)/python -m pytest -q

# Damaged files for every reader of foreign files; each finding is kept and told.
fuzz: .venv/dev
	$(BIN)/python -m tests.fuzz.fuzz --cases=$(or $(CASES),10000) --seed=$(or $(SEED),$(shell date +%s))

# The networks and their evaluation on an accelerator; jax needs its extra, see requirements.txt.
DEVICE ?= cuda
test-device: .venv/dev
	JAX_PLATFORMS=$(DEVICE),cpu $(BIN)/python -m pytest -q -m "not slow" \
		tests/test_oracles.py tests/models tests/evaluation tests/weights

# The comparisons with other implementations, as other processors and threads compute them.
test-machines: .venv/dev
	$(BIN)/python -m tests.machines

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv $(RUN)

# A marker per set of packages: made again when its list changes.
.venv/run: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/dev: .venv/run requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
