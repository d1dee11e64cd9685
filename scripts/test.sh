#!/usr/bin/env bash
# From a fresh clone to a tested one: sets up .venv, looks at the code, then runs the tests.
#   scripts/test.sh [pytest argument ...]     for example -m slow, or -k checkpoint; -n 0 runs them in one process
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
.venv/bin/ruff check --quiet .
.venv/bin/ruff format --quiet --check .
.venv/bin/mypy --no-error-summary
# One thread a process: the tests' tensors are tiny, and several processes are what makes them fast.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec .venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
