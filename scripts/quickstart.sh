#!/usr/bin/env bash
# From a fresh clone to the main result: sets up .venv, then quantizes a diffusion model of digits with AccuQuant.
#   scripts/quickstart.sh [override ...]     for example quantizer.weight.bits=3
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
"$root/scripts/setup.sh"
exec "$root/.venv/bin/quantlab" method=accuquant model=ddim "$@"
