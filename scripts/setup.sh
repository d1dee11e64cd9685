#!/usr/bin/env bash
# Makes .venv at the top of the repository and installs quantlab and its test extra there. Once that is done, it does
# nothing until the dependencies, the Python version or the place of the repository change.
#   PYTHON=python3.12 scripts/setup.sh     to name the Python that makes the environment
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "setup: $*" >&2; exit 2; }

python=${PYTHON:-python3}
command -v "$python" >/dev/null || fail \
    "there is no '$python'; install Python 3.10 to 3.13, or name one: PYTHON=python3.12 $0"
"$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' || fail \
    "'$python' is $("$python" --version 2>&1), but 3.10 to 3.13 is needed; name another: PYTHON=python3.12 $0"
# With .venv activated, `python3` is .venv's own, which could not outlive making .venv anew.
python=$("$python" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))')

# The stamp is "incomplete" while an installation goes on, and then "<python> <repository> <hash>". Nothing in an
# environment can be trusted whose installation was cut short, nor in one that was moved or made by another Python.
stamp=.venv/.quantlab-installed
place="$("$python" -c 'import platform; print(platform.python_version())') $PWD"
want="$place $("$python" -c '
import hashlib, pathlib
sources = b"".join(pathlib.Path(path).read_bytes() for path in ("pyproject.toml", "quantlab/__init__.py"))
print(hashlib.sha256(sources).hexdigest())
')"
have=$(cat "$stamp" 2>/dev/null || echo none)

works() { .venv/bin/python -m pip --version >/dev/null 2>&1; }

if [ "$have" = "$want" ] && works; then
    exit 0
fi
case "$have" in
    none | "$place "*) works || rm -rf .venv ;;
    *) rm -rf .venv ;;
esac
if [ ! -d .venv ]; then
    echo "setup: making $PWD/.venv with $("$python" --version)" >&2
    "$python" -m venv .venv
fi
echo incomplete >"$stamp"
echo "setup: installing quantlab; the first time downloads PyTorch" >&2
.venv/bin/python -m pip install --disable-pip-version-check -e '.[test]' >&2
echo "$want" >"$stamp"
