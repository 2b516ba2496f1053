# The two commands: make demo, make test. Both set up what they need.
.PHONY: setup build demo test bench lint clean

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

bench: build
	@scripts/bench.sh

lint: setup
	@scripts/lint.sh

clean:
	rm -rf build
