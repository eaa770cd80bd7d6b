# `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BACKEND ?= cpu# cpu or gpu: which build of faiss
RUN ?= outputs/emoji_modern/demo
WORKERS ?= auto# number of test processes
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
CPU_TORCH := https://download.pytorch.org/whl/cpu# PyPI's torch for Linux contains CUDA, several gigabytes

.DEFAULT_GOAL := help
.PHONY: help install demo model test test-cluster lint format bench clean

help: ## list the targets
	@echo "igpt: generative pre-training from pixels"
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{ printf "  make %-12s %s\n", $$1, $$2 }'
	@echo
	@echo "  BACKEND=gpu installs faiss with CUDA; PYTHON=python3.12 uses another Python; RUN=DIR is the run directory of the demo."

# The dependencies for training, and those for development; each is installed once, into $(VENV).
$(VENV)/.ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing igpt into $(VENV) (a few minutes; PyTorch is large)"
ifeq ($(BACKEND),cpu)
	-$(PIP) install --no-deps --retries 0 --index-url $(CPU_TORCH) $$(grep ^torch== constraints.txt)
endif
	$(PIP) install -c constraints.txt -e '.[$(BACKEND)]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) install -c constraints.txt -e '.[$(BACKEND),dev,slurm,sweep]'
	@touch $@

install: $(VENV)/.ready ## create .venv and install igpt into it

demo: install ## pre-train on emoji for a few minutes on a CPU, evaluate, sample and probe every layer
	$(BIN)/igpt-train experiment=emoji_modern hydra.run.dir=$(RUN)
	$(BIN)/igpt-evaluate run=$(RUN)
	$(BIN)/igpt-probe run=$(RUN)
	@echo "Look at $(RUN)/figures (samples, completions, curve, palette) and $(RUN)/probe/accuracy.png"

MODEL := src/igpt/registry/emoji-nano
EXPORTED = $(RUN)/export/emoji-nano

model: install ## rebuild the model that comes with igpt from its recipe; RUN=DIR takes a run that exists
	$(BIN)/igpt-train experiment=emoji_modern hydra.run.dir=$(RUN)
	rm -rf $(EXPORTED)
	$(BIN)/igpt-export run=$(RUN) output=$(EXPORTED) format=igpt dtype=float16 evaluate=true license=apache-2.0
	rm -rf $(MODEL) && cp -r $(EXPORTED) $(MODEL)
	$(BIN)/python -m igpt.registry.enter emoji-nano $(MODEL)

# Test processes share the cores, so each uses one thread.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --maxprocesses 8

test: $(VENV)/.ready-dev ## run all tests
	$(TESTS) -n $(WORKERS)

test-cluster: $(VENV)/.ready-dev ## fault tests on a real SLURM, which is installed if necessary (root, Debian)
	$(BIN)/python tests/real_slurm/install.py
	IGPT_TEST_CLUSTER=1 $(TESTS) -n 2 tests/real_slurm

lint: $(VENV)/.ready-dev ## run ruff, mypy and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready-dev ## format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.ready-dev ## compare with other implementations; tables are in benchmarks/results
	$(BIN)/python benchmarks/all.py

clean: ## delete .venv and caches, but not outputs/
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
