# make demo     train a small network, lose accuracy to quantization, win it back, export it
# make test     GoogleTest (plain and with sanitizers) and pytest
# make bench    ratios against a copy, ATen, torch.compile and Triton: JSON and plots in benchmarks/out
# Each sets up what it needs in .venv and build; PYTHON=... and VENV=... choose others.

PYTHON ?= python3
VENV   ?= .venv
BUILD  ?= build
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)

BIN    := $(abspath $(VENV))/bin
TORCH   = $(shell $(BIN)/python -c "import importlib.util, os; print(os.path.dirname(importlib.util.find_spec('torch').origin))")
CUDA    = $(shell $(BIN)/python -c "import torch; print('detent_cuda' if torch.version.cuda else '')")
export PATH := $(BIN):$(PATH)
export PYTHONPATH := $(CURDIR)/torch_ext

.NOTPARALLEL:
.PHONY: demo test bench env configure build-python build-all gtest sanitize pytest clean

demo: build-python
	$(BIN)/python examples/digits_qat.py --out demo_output

test: gtest sanitize pytest

bench: build-python
	$(BIN)/python benchmarks/run.py

env:
	@bash scripts/setup_env.sh $(VENV) $(PYTHON)

configure: env
	@cmake -S . -B $(BUILD) -G Ninja -DDETENT_TORCH_DIR=$(TORCH) -DDETENT_LIBRARY_DIR=$(CURDIR)/torch_ext/detent/lib \
	    -DDETENT_TESTS=$(TESTS) > $(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@rm -f $(BUILD).log

# What Python needs; the CUDA library only where torch can use it.
build-python: TESTS = OFF
build-python: configure
	@cmake --build $(BUILD) -j $(JOBS) --target detent detent_autograd $(CUDA)

build-all: TESTS = ON
build-all: gtest-installed configure
	@cmake --build $(BUILD) -j $(JOBS)

.PHONY: gtest-installed
gtest-installed:
	@bash scripts/find_gtest.sh

gtest: build-all
	$(BUILD)/tests/kernels/detent_kernel_tests --gtest_brief=1
	$(BUILD)/tests/kernels/detent_emulated_cuda_tests --gtest_brief=1

# The C library alone: neither Python nor torch nor nvcc, warnings are errors. The emulated device would take minutes.
sanitize: env gtest-installed
	@cmake -S . -B $(BUILD)-sanitize -G Ninja -DDETENT_CUDA=OFF -DDETENT_SANITIZE=ON -DDETENT_WERROR=ON \
	    -DDETENT_EMULATED_CUDA=OFF > /dev/null
	@cmake --build $(BUILD)-sanitize -j $(JOBS)
	$(BUILD)-sanitize/tests/kernels/detent_kernel_tests --gtest_brief=1

pytest: build-all
	DETENT_BUILD=$(abspath $(BUILD)) DETENT_CPP_HOST=$(abspath $(BUILD))/tests/cpp/detent_host \
	    $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

clean:
	rm -rf $(BUILD) $(BUILD)-sanitize torch_ext/detent/lib demo_output
