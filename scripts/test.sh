#!/usr/bin/env bash
# From a fresh clone to a tested one: sets up .venv, then runs the tests.
#   scripts/test.sh [pytest argument ...]     for example -m slow, or -k checkpoint
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
exec .venv/bin/python -m pytest "$@"
