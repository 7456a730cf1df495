#!/bin/sh
# Makes .venv with the package and its development tools: `make` runs it when pyproject.toml or constraints.txt changed.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}

fail() {
  echo "latentmas_ray: $1" >&2
  exit 1
}

command -v "$python" >/dev/null || fail "$python is missing: install Python 3.11 or later"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "Python 3.11 or later is needed, and $python is $("$python" -V 2>&1): try make PYTHON=python3.12"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
  fail "$python lacks the venv module: install it (Debian and Ubuntu: the package python3-venv)"

# A machine with a GPU keeps the torch that was built for it, if that is new enough and .venv can see it:
# what an activated virtual environment holds, another one does not see.
own_torch=no
if "$python" -c '
import sys, torch
new_enough = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 9)
sys.exit(not (new_enough and torch.cuda.is_available() and sys.prefix == sys.base_prefix))' 2>/dev/null; then
  own_torch=yes
fi

pip() {
  .venv/bin/python -m pip --quiet --quiet --disable-pip-version-check install "$@"
}

if [ $own_torch = yes ]; then
  echo "Setting up .venv with this machine's own CUDA torch"
  "$python" -m venv --system-site-packages .venv
  grep -v '^torch==' constraints.txt >.venv/constraints.txt
else
  echo "Setting up .venv: the first time takes a few minutes"
  "$python" -m venv .venv
  cp constraints.txt .venv/constraints.txt
  # First and alone, so that pip settles on one build of it before anything else asks for torch.
  pip -c .venv/constraints.txt torch
fi
pip -c .venv/constraints.txt -e '.[dev]'
