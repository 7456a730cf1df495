"""vLLM in several processes that a launcher has started, one for each rank of a divided model."""

from pathlib import Path

from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher

_SHARED_MEMORY = Path("/dev/shm")


def make_executor(group: str) -> type[ExecutorWithExternalLauncher]:
    """Return the executor of one rank of a group with this name, which no other group on the machine has.

    On CPUs the ranks exchange tensors through shared memory that vLLM names after the address of the group, and that
    is the same (`env://`) for all groups: two of them would read each other's tensors, and after a rank was killed
    none could start.
    """

    class NamedExecutor(ExecutorWithExternalLauncher):  # type: ignore[misc]  # vLLM has no types
        def _distributed_args(self) -> tuple[str, int, int]:
            address, rank, local_rank = super()._distributed_args()
            return f"{address}group:{group}", rank, local_rank

    return NamedExecutor


def remove_names(group: str) -> None:
    """Remove the names of the shared memory of a group that has started: its processes have mapped it, and it ends with
    them, however they end."""
    for path in _SHARED_MEMORY.glob(f"{group}-*"):
        path.unlink(missing_ok=True)
