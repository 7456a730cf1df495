"""Runs jobs in the sandbox, as another user: reads jobs from standard input and writes outcomes, both as JSON.

Before it runs them it opens what a program must not reach: Unix sockets by path (stream, datagram), an abstract one, a
secret file of this user, and a key in its session keyring. `{folder}` and `{abstract}` in a program stand for them.
Run by a plain interpreter: only the standard library is there. The first argument says by what they are confined:
`all` that this machine has, `bubblewrap`, or `landlock` and the filter of system calls alone.
"""

import ctypes
import json
import os
import platform
import shutil
import socket
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from latentmas_ray.errors import SandboxError
from latentmas_ray.sandbox import Job, Limits, find_obstacle, run, run_program

SECRET = "a-secret-of-the-caller"


def add_session_key() -> None:
    """Put a key into a new session keyring, as Kerberos and file systems do; without effect where there are no keys."""
    add_key, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[platform.machine()]
    libc = ctypes.CDLL(None)
    libc.syscall(keyctl, 1, None)
    libc.syscall(add_key, b"user", b"latentmas-test", SECRET.encode(), len(SECRET), -3)


WITHOUT_NAMESPACES = (
    "from latentmas_ray.sandbox import supervisor; from latentmas_ray.sandbox.confine.isolation import Isolation; "
    "supervisor.enter_root = lambda *_: False; supervisor.isolate = lambda *_: Isolation("
    "has_own_user=False, has_no_network=False, has_own_processes=False); "
)


def main() -> None:
    """Run the jobs."""
    jobs = json.load(sys.stdin)
    if sys.argv[1] == "bubblewrap":
        run._try_out = lambda: ("", shutil.which("bwrap"))  # type: ignore[assignment]
    if sys.argv[1] == "landlock":
        run._START = run._START.replace("del sys", f"{WITHOUT_NAMESPACES}del sys")
    if os.geteuid():
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # after the change of user: else /proc/self is root's
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as stream:
        datagram, abstract = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX)
        stream.bind(f"{folder}/stream")
        datagram.bind(f"{folder}/datagram")
        abstract.bind(f"\0latentmas-{os.getpid()}")
        for one in (stream, abstract):
            one.listen()
        for name in ("stream", "datagram"):
            Path(folder, name).chmod(0o777)
        Path(folder).chmod(0o755)
        Path(folder, "secret").write_text(SECRET)
        add_session_key()
        outcomes = {}
        for name, fields in jobs.items():
            program = fields["program"].replace("{folder}", folder).replace("{abstract}", f"latentmas-{os.getpid()}")
            limits = Limits(**{"wall_seconds": 60.0, **fields.get("limits", {})})
            try:
                given = fields.get("given", "")
                outcome = run_program(Job(program=program, tests=fields["tests"], given=given, limits=limits))
                outcomes[name] = asdict(outcome)
            except SandboxError as error:
                outcomes[name] = {"passed": False, "reason": f"SandboxError: {error}"}
        datagram.close()
        abstract.close()
    json.dump({"obstacle": find_obstacle(), "outcomes": outcomes}, sys.stdout)


if __name__ == "__main__":
    main()
