#!/bin/sh
# Makes the environments of the programs that ask a server in tests, next to this file: `make clients` runs it.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}

install() {
    "$python" -m venv "$1"
    "$1/bin/python" -m pip --quiet --quiet --disable-pip-version-check install -r "$2"
}

echo "Setting up the clients: 2 GB, some minutes"
install .venv requirements.txt
install .venv-crewai crewai.txt
