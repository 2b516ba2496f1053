# The two commands: make demo, make test. Both set up what they need.
.PHONY: setup build demo test test-core wheel bench lint clean

BUILD := build/release
PYTHON := .deps/venv/bin/python

setup:
	@scripts/setup.sh

build: setup
	@scripts/build.sh release

demo: build
	@scripts/demo.sh

test: build
	@scripts/test.sh

# What needs neither torch nor vLLM.
test-core: build
	@scripts/test.sh --core

wheel: setup
	@scripts/wheel.sh

bench: build
	@scripts/bench.sh

lint: setup
	@scripts/lint.sh

clean:
	rm -rf build
