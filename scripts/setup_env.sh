#!/usr/bin/env bash
# Makes the virtual environment of the demo and the tests: setup_env.sh VENV_FOLDER [PYTHON]
# Does nothing where scripts/requirements.txt is already installed there.
set -euo pipefail
venv=$1
python=${2:-python3}
here=$(cd "$(dirname "$0")" && pwd)
stamp=$venv/installed-requirements.txt

cmp -s "$here/requirements.txt" "$stamp" 2>/dev/null && exit 0

"$python" - <<'PY' || exit 1
import sys
if sys.version_info < (3, 11):
    sys.exit(f"The pinned packages need Python 3.11 or later, this is {sys.version.split()[0]}.\n"
             "Name another one: make PYTHON=python3.12 ...")
PY

make_venv() { "$python" -m venv "$venv" 2>/dev/null && [ -x "$venv/bin/pip" ]; }
if [ ! -x "$venv/bin/pip" ] && ! make_venv; then
    rm -rf "$venv"
    # Debian keeps the venv module's pip in a package of its own.
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
    fi
    make_venv || "$python" -m virtualenv -q "$venv" || {
        echo "No virtual environment could be made with $python." >&2
        echo "Install Debian's python3-venv, or virtualenv, and run this again." >&2
        exit 1
    }
fi

echo "Installing the pinned packages into $venv (torch is large; this is done once)"
"$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
cp "$here/requirements.txt" "$stamp"
