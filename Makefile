# The two commands: make demo, make test. Both set up what they need.
.PHONY: setup build demo demo-rl test test-core wheel bundle bench bench-rl lint model clean

BUILD := build/release
PYTHON := .deps/venv/bin/python

setup:
	@scripts/setup.sh

build: setup
	@scripts/build.sh release

demo: build
	@scripts/demo.sh

# Trains SmolLM2 and refits a running vLLM server after each step.
demo-rl: setup
	@scripts/demo_rl.sh

test: build
	@scripts/test.sh

# What needs neither torch nor vLLM.
test-core: build
	@scripts/test.sh --core

wheel: setup
	@scripts/wheel.sh

# The program, the GPU tests and all their libraries, the wheel, for other machines.
bundle: setup
	@scripts/bundle.sh

bench: build
	@scripts/bench.sh

# A live trainer and a live vLLM: Weft against what is done today.
bench-rl: setup
	@scripts/bench_rl.sh

lint: setup
	@scripts/lint.sh

# The version protocol: every interleaving of a small fleet.
model: setup
	@scripts/setup.sh --all
	@scripts/check_model.py

clean:
	rm -rf build
