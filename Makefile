# `make demo` and `make test` set up everything they need; PYTHON names the interpreter, 3.11 or newer.
PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
BIN := $(CURDIR)/$(VENV)/bin
BUILD_INPUTS := setup.py pyproject.toml MANIFEST.in $(wildcard csrc/* csrc/*/*)
PACKAGE := $(shell find dcn_backbones -name '*.py' -o -path '*/weights/*' -type f)
CPP := $(wildcard csrc/*.h csrc/*.cpp csrc/*/*.h csrc/*/*.cpp csrc/*/*.inc csrc/*/*.cu csrc/*/*.cuh csrc/cuda/emulation/*)

# What the CUDA kernels are compiled for: the GPUs here, or where there is none one architecture, which is quick.
# Wheels are compiled for all.
export TORCH_CUDA_ARCH_LIST ?= native

.PHONY: demo space test test-oldest test-gpu build-gpu fuzz sanitize portability large bench bench-gpu cuda-all lint format wheel \
	install clean

demo: install
	$(BIN)/python examples/demo.py

# The page that shows where a network looks, on http://127.0.0.1:7860
space: install
	$(BIN)/python hub/space/app.py

# Threads that wait asleep: where other work shares the processors, spinning ones make the tests take many times longer.
test test-oldest: export OMP_WAIT_POLICY := PASSIVE
# A file at a time for each processor, up to four: a process may need 3 GB.
test: install
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# The wheel built beside the newest torch, installed beside the oldest; the tests are copied because
# Python would otherwise import the checkout beside them.
test-oldest: wheel $(OLDEST)/ready
	$(OLDEST)/bin/pip install --quiet --force-reinstall --no-deps dist/*.whl
	rm -rf $(OLDEST)/checkout && mkdir $(OLDEST)/checkout && cp -r tests $(OLDEST)/checkout
	cd $(OLDEST)/checkout && $(CURDIR)/$(OLDEST)/bin/python -m pytest tests/ops tests/layers

# On a machine with a GPU, with PYTHON's own packages: nothing is installed, and the extension is built in place.
test-gpu: build-gpu
	$(PYTHON) -m pytest tests/gpu
	$(PYTHON) -m pytest tests/ops -k on_cuda
	$(MEMCHECK)

build-gpu:
	TORCH_CUDA_ARCH_LIST="$$($(PYTHON) -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')" \
		MAX_JOBS=$$(nproc) $(PYTHON) setup.py --quiet build_ext --inplace
	$(PYTHON) -m dcn_backbones.info

# Reads and writes out of bounds on a few cases, where the tool is; without torch's cache every tensor has its own bounds.
MEMCHECK = if command -v compute-sanitizer > /dev/null; then PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
	compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 $(PYTHON) -m pytest tests/ops/test_deform_conv2d.py \
	tests/ops/test_deform_roi_pool.py \
	-k '(extension_on or numba_cuda_on) and every_type and (modulated or dilated or groups_2 or groups_3)'; fi

# The property-based comparison with the reference, at length.
fuzz: install
	DCN_FUZZ_CASES=10000 $(BIN)/python -m pytest tests/ops/test_properties.py tests/ops/test_roi_properties.py

# The operator's tests on kernels built with AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: export OMP_WAIT_POLICY := PASSIVE
sanitize: install
	rm -rf build/sanitize && mkdir -p build/sanitize/checkout && cp -r tests csrc build/sanitize/checkout
	DCN_SANITIZE=1 DCN_CUDA=0 $(BIN)/python setup.py --quiet build --build-base build/sanitize --build-lib build/sanitize/lib
	cd build/sanitize/checkout && DCN_SANITIZE=1 PYTHONPATH=$(CURDIR)/build/sanitize/lib ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
		$(BIN)/python -m pytest -k 'not processes and not numba' tests/ops

# Tensors of more than 2**31 elements, in 20 GB of memory.
large: install
	DCN_LARGE=1 $(BIN)/python -m pytest -x tests/ops/test_large.py

# The kernels compiled for ARM, and the operator's tests on what Clang builds.
portability: export OMP_WAIT_POLICY := PASSIVE
portability: install
	$(BIN)/python -m pytest -rs tests/test_portability.py
	rm -rf build/clang && mkdir -p build/clang/checkout && cp -r tests build/clang/checkout
	CC=clang CXX=clang++ $(BIN)/python setup.py --quiet build --build-base build/clang --build-lib build/clang/lib
	cd build/clang/checkout && PYTHONPATH=$(CURDIR)/build/clang/lib $(BIN)/python -m pytest tests/ops

# The CUDA kernels for every architecture, each checked for spills and registers.
cuda-all: install
	DCN_CUDA_ARCHITECTURES=75,80,86,89,90,100,120 $(BIN)/python -m pytest tests/test_build_cuda.py

bench-gpu: build-gpu
	$(PYTHON) -m benchmarks.gpu_targets --output benchmarks/results/gpu_targets.json

bench: install
	$(BIN)/python -m benchmarks.roi_targets --output benchmarks/results/roi_targets.json
	$(BIN)/python -m benchmarks.cpu_targets --output benchmarks/results/cpu_targets.json

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

install: $(VENV)/ready

wheel: export TORCH_CUDA_ARCH_LIST :=
wheel: dist/ready

dist/ready: $(VENV)/ready $(PACKAGE)
	rm -rf dist build/lib* build/bdist*
	$(BIN)/pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .
	touch $@

# torch comes first: the extension is built against the one it will run beside, without build isolation.
$(VENV)/ready: $(BUILD_INPUTS) | $(VENV)/bin/pip
	$(BIN)/pip install $$($(BIN)/python -c "$$PRINT_BUILD_REQUIRES")
	$(BIN)/pip install --no-build-isolation --editable '.[test]'
	@$(BIN)/python -m dcn_backbones.info
	touch $@

$(OLDEST)/ready: pyproject.toml dist/ready | $(OLDEST)/bin/pip
	$(OLDEST)/bin/pip install dist/*.whl 'torch==2.11.*' 'torchvision==0.26.*' pytest hypothesis
	touch $@

%/bin/pip:
	$(PYTHON) -c "import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit('Python %d.%d is too old, expected 3.11 or newer: set PYTHON=python3.12 or the like' % v)"
	$(PYTHON) -m venv $*

clean:
	rm -rf $(VENV) $(OLDEST) build dist demo *.egg-info dcn_backbones/*.so

export PRINT_BUILD_REQUIRES := import tomllib; \
	print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'])
