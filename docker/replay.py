"""Carries out the RUN and COPY lines of a Dockerfile in a fresh Debian root, where there is no container engine.

    python docker/replay.py docker/Dockerfile.cpu /var/tmp/root --build-arg VLLM=no

Needs root and debootstrap, and what the lines download. It shows that every line works on a bare system; it is no
image: the base is Debian's own Python in /usr/local instead of the image's, and all stages share one root. Exit code
0 all lines worked; 1 one failed; 2 bad input; 3 this machine cannot do it, and the reason is printed.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SKIPPED = 3
LINE_SECONDS = 3600.0
# What the base image has and Debian's own Python lacks.
BASE_PACKAGES = "python3,python3-venv,ca-certificates"
MAKE_BASE = "python3 -m venv /usr/local"
# How this machine reaches packages: the fresh root gets the same.
SETTINGS = ("etc/resolv.conf", "etc/pip.conf", "etc/ssl/certs/ca-certificates.crt")
PASSED_ON = re.compile(r"(PIP_\w+|https?_proxy|HTTPS?_PROXY|no_proxy|NO_PROXY|SSL_CERT_FILE)$")


@dataclass(frozen=True)
class Step:
    """One line to carry out: its kind (RUN, COPY, WORKDIR), its text, and the variables that it sees."""

    kind: str
    text: str
    variables: Mapping[str, str]


def read_steps(dockerfile: str, build_args: Mapping[str, str]) -> Iterator[Step]:
    """Yield the steps of a Dockerfile in order. Raises ValueError for a line that this script does not know."""
    joined = re.sub(r"^#.*\n", "", dockerfile, flags=re.MULTILINE).replace("\\\n", " ")
    variables: dict[str, str] = {}
    for line in filter(str.strip, joined.splitlines()):
        kind, _, rest = line.strip().partition(" ")
        if kind == "FROM":
            variables = {}
        elif kind == "ARG":
            name, _, default = rest.strip().partition("=")
            variables[name] = build_args.get(name, default.strip("\"'"))
        elif kind == "ENV":
            variables |= dict(part.split("=", 1) for part in shlex.split(rest))
        elif kind == "COPY" and rest.startswith("--from"):
            continue  # all stages share one root
        elif kind in ("RUN", "COPY", "WORKDIR"):
            yield Step(kind, " ".join(rest.split()), dict(variables))
        elif kind not in ("USER", "HEALTHCHECK", "CMD"):
            raise ValueError(f"unknown instruction {kind}")


def obstacle() -> str | None:
    """Return why this machine cannot replay; None if it can."""
    if os.geteuid() != 0:
        return "it takes root, for chroot"
    if shutil.which("debootstrap") is None:
        return "debootstrap is missing (Debian and Ubuntu: the package debootstrap)"
    return None


class FreshRoot:
    """A Debian root in a folder, and a way to carry out steps in it."""

    def __init__(self, folder: Path, shown: Sequence[str] = ()) -> None:
        """`shown` are folders of this machine that commands in the root see at the same place, such as of packages."""
        self.folder = folder
        self._shown = tuple(shown)
        self._directory = "/"

    def make(self, suite: str, mirror: str) -> None:
        """Make the root. Raises CalledProcessError."""
        command = ["debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", suite, str(self.folder), mirror]
        subprocess.run(command, check=True, timeout=LINE_SECONDS)
        for name in SETTINGS:
            if (source := Path("/", name)).exists():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, self.folder / name)
        self._run(MAKE_BASE, {})

    def carry_out(self, step: Step) -> None:
        """Carry out a step. Raises CalledProcessError if a command fails."""
        if step.kind == "WORKDIR":
            self._directory = step.text
            self._host(step.text).mkdir(parents=True, exist_ok=True)
        elif step.kind == "COPY":
            *sources, target = step.text.split()
            place = self._host(str(Path(self._directory, target)))
            for source in sources:
                self._copy(ROOT / source, place, into=target.endswith("/") or len(sources) > 1)
        else:
            self._run(step.text, step.variables)

    def _copy(self, source: Path, place: Path, *, into: bool) -> None:
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(source, place, dirs_exist_ok=True, ignore=ignored)
            return
        place = place / source.name if into else place
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, place)

    def _run(self, command: str, variables: Mapping[str, str]) -> None:
        passed = {name: value for name, value in os.environ.items() if PASSED_ON.match(name)}
        path = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
        environment = {"PATH": path, "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive", **passed, **variables}
        script = f"cd {shlex.quote(self._directory)} && {command}"
        # Mounts of its own, which end with the command: some programs need /proc and /dev.
        mounts = ['mount -t proc proc "$0/proc"', 'mount --rbind /dev "$0/dev"']
        for shown in self._shown:
            self._host(shown).mkdir(parents=True, exist_ok=True)
            mounts.append(f'mount --bind {shlex.quote(shown)} "$0"{shlex.quote(shown)}')
        run = " && ".join([*mounts, 'exec chroot "$0" sh -c "$1"'])
        enter = ["unshare", "--mount", "--", "sh", "-c", run, str(self.folder), script]
        subprocess.run(enter, env=environment, check=True, timeout=LINE_SECONDS)

    def _host(self, path: str) -> Path:
        return self.folder / path.lstrip("/")


def main(arguments: list[str]) -> int:
    """Replay one Dockerfile; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("folder", type=Path, help="for the root; it must not exist yet, and it stays")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--show", action="append", default=[], metavar="FOLDER", help="of this machine, to commands")
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian")
    asked = parser.parse_args(arguments)
    if asked.folder.exists():
        parser.error(f"folder: got {str(asked.folder)!r}; it must not exist yet")
    if wrong := [one for one in asked.build_arg if "=" not in one]:
        parser.error(f"--build-arg: got {wrong[0]!r}; it must be NAME=VALUE")
    try:
        content = asked.dockerfile.read_text()
        steps = list(read_steps(content, dict(one.split("=", 1) for one in asked.build_arg)))
    except (OSError, ValueError) as error:
        parser.error(f"dockerfile: got {str(asked.dockerfile)!r}; {error}")
    if not steps:
        parser.error(f"dockerfile: got {str(asked.dockerfile)!r}; it has no RUN, COPY or WORKDIR line")
    known = re.findall(r"^ARG\s+(\w+)", content, re.MULTILINE)
    for one in asked.build_arg:
        if one.partition("=")[0] not in known:
            parser.error(f"--build-arg: got {one!r}; the file has {', '.join(known) or 'no ARG line'}")
    if missing := [one for one in asked.show if not Path(one).is_dir()]:
        parser.error(f"--show: got {missing[0]!r}; it must be a folder")
    if (why := obstacle()) is not None:
        print(f"skipped: {why}", file=sys.stderr)
        return SKIPPED
    root = FreshRoot(asked.folder, [str(Path(one).resolve()) for one in asked.show])
    try:
        root.make(asked.suite, asked.mirror)
        for number, step in enumerate(steps, start=1):
            print(f"[{number}/{len(steps)}] {step.kind} {step.text}", flush=True)
            root.carry_out(step)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as error:  # OSError: nothing to copy
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print(f"all {len(steps)} lines of {asked.dockerfile} worked")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
