# make demo   install into .venv, then repair a real BadNet and show it
# make test   everything that runs offline: ruff, mypy, pytest
# make verify what takes long: stored figures are measured again, and every method is run on
#             every kind of model
# make bench  benchmarks into results/ (about 50 minutes, 6 GB of disk for a while)
# make fuzz   100,000 mutated model files through the loader
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed

.PHONY: install demo test verify bench fuzz lint models study-models clean

install: $(INSTALLED)

# kerassurgeon 0.2.0 declares keras<3 and pytest<7, which it does not need: it is installed
# without its declared dependencies.
$(INSTALLED): setup.cfg setup.py constraints.txt
	@echo "Installing into $(VENV) (about 3 GB; a minute or two) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -qq --upgrade pip setuptools wheel
	@$(PIP) install -qq --constraint constraints.txt --no-build-isolation --editable ".[test]"
	@$(PIP) install -qq --no-deps kerassurgeon==0.2.0
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/keras-backdoor demo --out demo --force

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m "not verify" -n auto --dist loadfile --no-loadscope-reorder

verify: $(INSTALLED)
	$(BIN)/python -m pytest -m verify

bench: $(INSTALLED)
	for program in benchmarks/[a-z]*.py; do $(BIN)/python $$program || exit 1; done

fuzz: $(INSTALLED)
	$(BIN)/python fuzz/fuzz_loader.py --count 100000 --out results/fuzz.json

# The BadNet of the demo, reproduced with the project's own commands (about a minute).
models: $(INSTALLED)
	mkdir -p build/models
	$(BIN)/keras-backdoor poison data/mnist.npz --trigger checkerboard:size=8,row=19,column=19 \
	  --target 7 --count 600 --out build/models/poisoned.npz --force
	$(BIN)/keras-backdoor train borji-mnist build/models/poisoned.npz --set epochs=4 \
	  --set batch_size=128 --set activity_l1=0.0003 --test data/mnist.npz \
	  --trigger checkerboard:size=8,row=19,column=19 --target 7 \
	  --about models/mnist_badnet.about.json --out build/models/mnist_badnet.h5 --force

# The networks of the studies (about two hours; GTSRB in the folder KERAS_BACKDOOR_DATA).
study-models: $(INSTALLED)
	$(BIN)/keras-backdoor study development-zoo --models models/zoo
	$(BIN)/keras-backdoor study thesis-badnets --models models

clean:
	rm -rf build demo *.egg-info .pytest_cache .mypy_cache .ruff_cache
