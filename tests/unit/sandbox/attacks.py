"""Programs that try to leave the sandbox, each with the tests that it passes only if it is refused."""

import json
import platform
from typing import Any

REFUSED = "got = attempt()\nassert got == {}, got"
_SEARCH = """
import ctypes, mmap, os, platform, socket, struct, sys, tempfile
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = __TABLE__[platform.machine()]
def call(name, *arguments):
    number = NUMBERS[name] if isinstance(name, str) else name
    values = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = libc.syscall(ctypes.c_long(number), *values)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}")
    return result
def in_child(action):
    # What the kernel answers by killing the process is tried in a child.
    child = os.fork()
    if child == 0:
        try:
            action()
        except OSError:
            os._exit(7)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 7:
        raise OSError("refused")
    return status
def attempt():
    got = {}
    for name, action in actions.items():
        try:
            got[name] = repr(action())[:100]
        except OSError:
            pass
    return got
"""
NUMBERS = {
    "x86_64": {
        "keyctl": 250, "add_key": 248, "request_key": 249, "unshare": 272, "clone": 56, "clone3": 435, "setns": 308,
        "mount": 165, "umount2": 166, "pivot_root": 155, "open_tree": 428, "fsopen": 430, "ptrace": 101,
        "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438, "kcmp": 312, "bpf": 321,
        "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425, "kexec_load": 246, "init_module": 175,
        "name_to_handle_at": 303, "open_by_handle_at": 304, "inotify_init1": 294, "fanotify_init": 300,
        "memfd_create": 319, "memfd_secret": 447, "shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240,
        "seccomp": 317, "chroot": 161, "acct": 163, "quotactl": 179, "syslog": 103, "personality": 135, "vmsplice": 278,
        "prlimit64": 302, "socket": 41,
    },
    "aarch64": {
        "keyctl": 219, "add_key": 217, "request_key": 218, "unshare": 97, "clone": 220, "clone3": 435, "setns": 268,
        "mount": 40, "umount2": 39, "pivot_root": 41, "open_tree": 428, "fsopen": 430, "ptrace": 117,
        "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_getfd": 438, "kcmp": 272, "bpf": 280,
        "perf_event_open": 241, "userfaultfd": 282, "io_uring_setup": 425, "kexec_load": 104, "init_module": 105,
        "name_to_handle_at": 264, "open_by_handle_at": 265, "inotify_init1": 26, "fanotify_init": 262,
        "memfd_create": 279, "memfd_secret": 447, "shmget": 194, "semget": 190, "msgget": 186, "mq_open": 180,
        "seccomp": 277, "chroot": 51, "acct": 89, "quotactl": 60, "syslog": 116, "personality": 92, "vmsplice": 75,
        "prlimit64": 261, "socket": 198,
    },
}  # fmt: skip
_HEAD = _SEARCH.replace("__TABLE__", json.dumps(NUMBERS))


SOCKETS = {
    "socket/by path": "socket.socket(socket.AF_UNIX).connect('{folder}/stream')",
    "socket/datagram by path": "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', '{folder}/datagram')",
    "socket/pair that is connected anew": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0]"
    ".connect('{folder}/datagram')",
    "socket/pair that sends by path": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0]"
    ".sendto(b'x', '{folder}/datagram')",
    "socket/stream pair that is connected": "socket.socketpair()[0].connect('{folder}/stream')",
    "socket/abstract": r"socket.socket(socket.AF_UNIX).connect('\0{abstract}')",
    "socket/own by path": "socket.socket(socket.AF_UNIX).bind('mine')",
    "socket/made by number": "call('socket', 1, 1, 0)",
    "socket/vsock": "socket.socket(40, socket.SOCK_STREAM)",
    "socket/vsock datagram": "socket.socket(40, socket.SOCK_DGRAM)",
    "socket/netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "socket/packet": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "socket/internet": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "socket/internet, version 6": "socket.socket(socket.AF_INET6, socket.SOCK_STREAM)",
    "socket/crypto": "socket.socket(38, socket.SOCK_SEQPACKET)",
    "socket/bluetooth": "socket.socket(31, socket.SOCK_RAW)",
}
KEYS = {
    "keys/search": "call('keyctl', 10, -3, ctypes.c_char_p(b'user'), ctypes.c_char_p(b'latentmas-test'), 0)",
    "keys/list": "call('keyctl', 11, -3, ctypes.create_string_buffer(100), 100)",
    "keys/request": "call('request_key', ctypes.c_char_p(b'user'), ctypes.c_char_p(b'latentmas-test'), None, 0)",
    "keys/add": "call('add_key', ctypes.c_char_p(b'user'), ctypes.c_char_p(b'x'), ctypes.c_char_p(b'y'), 1, -2)",
    "keys/describe": "call('keyctl', 6, -3, ctypes.create_string_buffer(100), 100)",
    "keys/new session": "call('keyctl', 1, None)",
}
NAMESPACES = {
    "namespace/user": "call('unshare', 0x10000000)",
    "namespace/user and network": "call('unshare', 0x50000000)",
    "namespace/mount": "call('unshare', 0x00020000)",
    "namespace/time": "call('unshare', 0x80)",
    "namespace/clone": "in_child(lambda: call('clone', 0x10000000 | 17, None, None, None, None))",
    "namespace/clone of processes": "in_child(lambda: call('clone', 0x20000000 | 17, None, None, None, None))",
    "namespace/clone3": "in_child(lambda: call('clone3', struct.pack('11Q', 0x10000000, *[0] * 10), 88))",
    "namespace/enter": "call('setns', 0, 0)",
    "mount/tmpfs": "call('mount', b'tmpfs', b'.', b'tmpfs', 0, None)",
    "mount/bind": "call('mount', b'/', b'.', None, 0x1000, None)",
    "mount/unmount": "call('umount2', b'/usr/lib', 2)",
    "mount/pivot": "call('pivot_root', b'.', b'.')",
    "mount/tree": "call('open_tree', -100, b'/', 1)",
    "mount/open": "call('fsopen', b'tmpfs', 0)",
    "mount/chroot": "call('chroot', b'.')",
}
OTHER_PROCESSES = {
    "process/ptrace the parent": "call('ptrace', 16, os.getppid(), None, None)",
    "process/ptrace any": "def action():\n    for pid in range(1, 60):\n        try:\n"
    "            return pid, call('ptrace', 0x4206, pid, None, None)\n        except OSError:\n            pass\n"
    "    raise OSError('refused')",
    "process/read memory": "call('process_vm_readv', os.getppid(), None, 0, None, 0, 0)",
    "process/write memory": "call('process_vm_writev', os.getppid(), None, 0, None, 0, 0)",
    "process/take a file": "call('pidfd_getfd', 0, 0, 0)",
    "process/compare": "call('kcmp', os.getpid(), os.getppid(), 0, 0, 0)",
    "process/limits of another": "call('prlimit64', os.getppid(), 0, struct.pack('2Q', 1, 1), None)",
    "process/list": "os.listdir('/proc')",
    "process/own maps": "open('/proc/self/maps').read()",
}
KERNEL = {
    "kernel/bpf": "call('bpf', 0, ctypes.create_string_buffer(128), 128)",
    "kernel/perf": "call('perf_event_open', ctypes.create_string_buffer(128), 0, -1, -1, 0)",
    "kernel/userfaultfd": "call('userfaultfd', 1)",
    "kernel/io_uring": "call('io_uring_setup', 4, ctypes.create_string_buffer(120))",
    "kernel/kexec": "call('kexec_load', 0, 0, None, 0)",
    "kernel/module": "call('init_module', None, 0, b'')",
    "kernel/handle of a file": "call('name_to_handle_at', -100, b'/usr/lib', ctypes.create_string_buffer(136),"
    " ctypes.create_string_buffer(8), 0)",
    "kernel/file by handle": "call('open_by_handle_at', -100, ctypes.create_string_buffer(136), 0)",
    "kernel/inotify": "call('inotify_init1', 0)",
    "kernel/fanotify": "call('fanotify_init', 0, 0)",
    "kernel/dnotify": "__import__('fcntl').fcntl(os.open('.', os.O_RDONLY), 1026, 0x2)",
    "kernel/filter of its own": "call('seccomp', 1, 0, None)",
    "kernel/log": "call('syslog', 3, ctypes.create_string_buffer(100), 100)",
    "kernel/accounting": "call('acct', None)",
    "kernel/personality": "call('personality', 0x0400000)",
    "kernel/terminal input": "__import__('fcntl').ioctl(os.open('/dev/null', os.O_RDWR), 0x5412, b'x')",
    "kernel/x86 calls of x32": "in_child(lambda: call(0x40000000 + 39))",
    "kernel/x86 calls of 32 bits": """
def old():
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex('b814000000' 'cd80' 'c3'))
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
action = lambda: in_child(old)
""",
}
UNCOUNTED_MEMORY = {
    "memory/file in memory": "call('memfd_create', b'x', 0)",
    "memory/secret file": "call('memfd_secret', 0)",
    "memory/System V": "call('shmget', 0, 1 << 30, 0o1600)",
    "memory/System V semaphores": "call('semget', 0, 100, 0o1600)",
    "memory/System V messages": "call('msgget', 0, 0o1600)",
    "memory/POSIX messages": "call('mq_open', b'x', 0o102, 0o600, None)",
    "memory/POSIX": "__import__('multiprocessing.shared_memory').shared_memory.SharedMemory(create=True, size=1 << 20)",
    "memory/in /dev/shm": "open('/dev/shm/x', 'wb')",
    "memory/large pipe": "__import__('fcntl').fcntl(os.pipe()[0], 1031, 1 << 20)",
    "memory/given to a pipe": "call('vmsplice', os.pipe()[1], struct.pack('2Q', 0, 0), 1, 0)",
}
_SIZES = "\n".join(
    (
        "def action():",
        "    for path in ('/etc/shadow', '/etc/passwd', '/etc/hostname', '/var/log', '/boot', '/run', "
        "'{folder}', '{folder}/secret', '/var/run', '/sys/kernel', '/sys/fs/cgroup', '/dev/shm', '/dev/tty', '/mnt'):",
        "        if os.path.lexists(path):",
        "            return path, os.stat(path).st_size",
        "    raise OSError('refused')",
    )
)
FILES = {
    "files/sizes": _SIZES,
    "files/a secret": "open('{folder}/secret').read()",
    "files/other temporary ones": "os.stat('/nowhere') if len(os.listdir('..')) == 1 else os.listdir('..')",
    "files/homes": "[open(os.path.join(place, name)) for place, _, names in os.walk('/home') for name in names][:1]"
    " or os.stat('/nowhere')",
    "files/write to Python's": "open(os.__file__, 'a')",
    "files/write next to Python's": "open(os.path.join(os.path.dirname(os.__file__), 'x.py'), 'w')",
    "files/new at the top": "os.mkdir('/x')",
    "files/device": "os.mknod('x', 0o20666, os.makedev(1, 1))",
    "files/back by ..": "os.listdir('/' + '../' * 30 + 'etc/ssl')",
    "files/of the project": f"os.stat({__file__!r})",
}
ATTACKS = {
    "sockets": SOCKETS,
    "keys": KEYS,
    "namespaces": NAMESPACES,
    "other processes": OTHER_PROCESSES,
    "kernel": KERNEL,
    "memory that no limit counts": UNCOUNTED_MEMORY,
    "files": FILES,
}


def job_of(attacks: dict[str, str]) -> dict[str, Any]:
    """One program that tries them all, and passes if each is refused."""
    parts = [_HEAD, "actions = {}"]
    for name, action in attacks.items():
        if "x86" not in name or platform.machine() == "x86_64":
            parts.append(action if "\n" in action else f"action = lambda: {action}")
            parts.append(f"actions[{name!r}] = action")
    return {"program": "\n".join(parts), "tests": REFUSED}


_HOLD = (
    "import mmap, os, time\ndef hold(n, shared=False):\n    room = mmap.mmap(-1, n) if shared else bytearray(n)\n"
    "    for at in range(0, n, 4096):\n        room[at] = 1\n    return room\n"
)
_WAIT = "assert attempt() == 'never'"
_BOUND = {"memory_bytes": 768 << 20, "wall_seconds": 60.0}
MEMORY: dict[str, dict[str, Any]] = {
    "one process": {
        "program": _HOLD + "def attempt():\n    return len(hold(1 << 30))\n", "tests": _WAIT, "limits": _BOUND
    },
    "several processes": {
        "program": _HOLD + "def attempt():\n    for _ in range(3):\n        if os.fork() == 0:\n"
        "            kept = hold(320 << 20)\n            time.sleep(50)\n    time.sleep(50)\n",
        "tests": _WAIT,
        "limits": _BOUND,
    },
    "shared pages": {
        "program": _HOLD + "def attempt():\n    for _ in range(3):\n        if os.fork() == 0:\n"
        "            kept = hold(320 << 20, True)\n            time.sleep(50)\n    time.sleep(50)\n",
        "tests": _WAIT,
        "limits": _BOUND,
    },
    "threads": {
        "program": _HOLD + "import threading\nkept = []\ndef attempt():\n    for _ in range(3):\n"
        "        threading.Thread(target=lambda: kept.append(hold(320 << 20)), daemon=True).start()\n"
        "    time.sleep(5)\n    if len(kept) < 3:\n        raise MemoryError\n",
        "tests": _WAIT,
        "limits": _BOUND,
    },
    "files in memory": {
        "program": "def attempt():\n    for number in range(100):\n        with open(f'f{number}', 'wb') as file:\n"
        "            file.write(bytes(2 << 20))\n",
        "tests": _WAIT,
        "limits": {**_BOUND, "folder_bytes": 64 << 20},
    },
}  # fmt: skip
