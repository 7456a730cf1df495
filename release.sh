#!/bin/sh
# Builds the sdist and the wheel into dist/ and checks them: size, content, a fresh installation, one answer, and the
# lowest versions of the dependencies that pyproject.toml promises. Publishes nothing. `sh release.sh build` stops before
# anything is installed. The environments are temporary; torch is the version of constraints.txt in both checks, since
# every version of it is hundreds of megabytes.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}
max_wheel_bytes=12000000
steps=${1:-all}
root=$(pwd)

fail() {
  echo "release: $1" >&2
  exit 1
}

step() {
  echo "release: $1"
}

case $steps in all | build) ;; *) fail "unknown argument $steps: it must be build or nothing" ;; esac
command -v "$python" >/dev/null || fail "$python is missing: install Python 3.11 or later"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "Python 3.11 or later is needed, and $python is $("$python" -V 2>&1)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

pip() {
  "$work/fresh/bin/python" -m pip --quiet --quiet --disable-pip-version-check install "$@"
}

# The installed command, away from the checkout, so that only the wheel's files are found.
installed() {
  (cd "$work" && env HF_HUB_OFFLINE=1 XDG_CACHE_HOME="$work/cache" "$work/fresh/bin/latentmas" "$@")
}

check_answer() {
  answer=$(installed ask "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?" \
    --runtime local --latent-steps 8 --temperature 0 2>"$work/err") || fail "latentmas ask failed: $(cat "$work/err")"
  case $answer in *'\boxed{8}'*) ;; *) fail "latentmas ask says: $answer" ;; esac
}

step "building the sdist, and the wheel from it"
"$python" -m venv "$work/build"
"$work/build/bin/python" -m pip --quiet --quiet --disable-pip-version-check install 'build>=1.2'
rm -rf dist build ./*.egg-info
"$work/build/bin/python" -m build --outdir dist . >"$work/log" 2>&1 || fail "the build failed: $(tail -n 20 "$work/log")"
rm -rf build ./*.egg-info
wheel=$(ls dist/*.whl)

size=$(wc -c <"$wheel")
[ "$size" -le "$max_wheel_bytes" ] || fail "$wheel has $size bytes, more than $max_wheel_bytes"
"$python" -m zipfile --list "$wheel" >"$work/files"
outside=$(awk 'NR > 1 { print $1 }' "$work/files" | grep -v -E '^latentmas_ray(-[^/]*\.dist-info)?/' || true)
[ -z "$outside" ] || fail "$wheel has files that do not belong to the package: $outside"
for file in py.typed models/weights/tiny/model.safetensors models/weights/small/model.safetensors \
  topology/builtin/sequential.yaml tasks/sample.jsonl report/templates/report.css report/published.json; do
  grep -q "^latentmas_ray/$file " "$work/files" || fail "$wheel lacks latentmas_ray/$file"
done
step "$wheel: $size bytes"
[ "$steps" = all ] || exit 0

step "installing the wheel into a fresh environment"
"$python" -m venv "$work/fresh"
pip -c constraints.txt torch
pip -c constraints.txt "$root/$wheel"
version=$("$python" -c 'import pathlib, tomllib; print(tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]["version"])')
shown=$(installed --version)
case $shown in *"$version"*) ;; *) fail "latentmas --version says $shown, and pyproject.toml $version" ;; esac
installed tasks >/dev/null || fail "latentmas tasks failed"
check_answer

step "the same with the lowest promised versions"
"$python" - >"$work/lowest.txt" <<'PYTHON'
import pathlib, tomllib

project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
tools = [line for line in project["optional-dependencies"]["dev"] if line.startswith(("pytest>", "hypothesis>"))]
for line in (*project["dependencies"], *tools):
    if not line.startswith("torch>"):
        print(line.replace(">=", "=="))
PYTHON
grep '^torch==' constraints.txt >"$work/torch.txt"
pip -c "$work/torch.txt" -r "$work/lowest.txt" "$root/$wheel" ||
  fail "the lowest versions that pyproject.toml promises do not go together: raise those that pip names"
check_answer
env -u RAY_ADDRESS "$work/fresh/bin/python" -m pytest -q -x -p no:cacheprovider tests/unit/actors tests/unit/memory tests/unit/placement \
  tests/unit/runs tests/unit/scheduler tests/unit/topology tests/unit/transport tests/unit/test_config.py tests/unit/test_stats.py \
  tests/unit/report/test_page.py tests/numerics/test_embedded.py >"$work/log" 2>&1 ||
  fail "tests fail with the lowest promised versions: $(tail -n 30 "$work/log")"
step "$(tail -n 1 "$work/log")"
step "done: $wheel and the sdist next to it are ready"
