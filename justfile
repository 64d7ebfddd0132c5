# The commands of CONTRIBUTING.md. `just` lists them.

python := ".venv/bin/python"

[private]
default:
    @just --list

# A virtual environment with everything
install:
    python3 -m venv .venv && {{python}} -m pip install -e ".[dev]"

# The test suite, on two processes
test *arguments:
    OPENBLAS_NUM_THREADS=1 {{python}} -m pytest -n 2 --dist worksteal {{arguments}}

# The test suite with every shape, schedule and injected fault of the kernels: much longer
test-full *arguments:
    KVPERF_TEST_FULL=1 OPENBLAS_NUM_THREADS=1 {{python}} -m pytest -n 2 --dist worksteal {{arguments}}

# Style, formatting, types
lint:
    {{python}} -m ruff check
    {{python}} -m ruff format --check
    {{python}} -m pyright --pythonpath {{python}}

# How long a command takes to start
bench:
    {{python}} benchmarks/start_up.py
