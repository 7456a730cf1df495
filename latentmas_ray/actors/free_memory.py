"""How much memory this machine has left."""

import os


def free_memory_bytes() -> int:
    """Bytes of physical memory that are free now; a lower bound where the system keeps caches."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
