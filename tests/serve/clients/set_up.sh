#!/bin/sh
# Makes tests/serve/clients/.venv with the programs that ask a server in tests: `make clients` runs it.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}

echo "Setting up the clients: 950 MB, some minutes"
"$python" -m venv .venv
.venv/bin/python -m pip --quiet --quiet --disable-pip-version-check install -r requirements.txt
