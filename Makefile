# Each target sets up .venv from a bare checkout, and nothing again while pyproject.toml stays as it is.
SHELL = /bin/bash
PYTHON ?= python3
MODEL ?= echo:delay=0.02
BIN = $(CURDIR)/.venv/bin
READY = .venv/ready

.PHONY: demo check torture pythons bench engines

# The main job, on the built-in model or another: make demo MODEL=gpt-5.5
demo: $(READY)
	@home=$$(mktemp -d); trap 'rm -r "$$home"' EXIT; \
	export PATH="$(BIN):$$PATH" XDG_DATA_HOME="$$home" XDG_STATE_HOME="$$home" XDG_CACHE_HOME="$$home" PS4='$$ '; \
	( set -eux -o pipefail; \
	head -n 3 LICENSE | gptpipe -m "$(MODEL)" -s demo 'Which licence is this?'; \
	gptpipe -n -s demo 'Who holds the copyright?'; \
	cat "$$XDG_DATA_HOME/gptpipe/sessions/demo.jsonl" )

# Every check. What the tests use is installed where that is possible; tests that lack a program are skipped and named.
check: $(READY)
	.ci/install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest

# Faults, hostile input, real surroundings; some of it: make torture KINDS='wire cron'
torture: $(READY)
	.ci/install --torture
	$(BIN)/python -m torture $(KINDS)

# Every test on every CPython of this machine, with the newest and the oldest dependencies
pythons: $(READY)
	.ci/install
	$(BIN)/python -m torture.pythons

# Real servers, each installed and started here; some of them: make engines ENGINES='litellm vllm'
engines: $(READY)
	.ci/install cmake g++
	$(BIN)/python -m engines $(ENGINES)

# The benchmarks, against other tools: make bench ARGS='--row start --json'
bench: $(READY)
	@$(BIN)/python -m bench $(ARGS)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/install python3-venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
