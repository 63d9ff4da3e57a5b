#!/bin/sh
# Finds the Python that the app's image runs its app with, and hands over to it.
set -eu
for python in "${VIRTUAL_ENV:-/nowhere}/bin/python" "${UV_PROJECT_ENVIRONMENT:-/nowhere}/bin/python" "$PWD/.venv/bin/python" \
    "$(command -v python || true)" "$(command -v python3 || true)"; do
    if [ -x "$python" ]; then
        exec "$python" "$1/install.py"
    fi
done
echo "The app's image has no Python: neither a venv that VIRTUAL_ENV names, nor .venv in $PWD, nor one on PATH." >&2
exit 1
