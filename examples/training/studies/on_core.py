"""How a cell waits for its actors."""

from typing import Any

import ray


def wait_on_core(reference: "ray.ObjectRef[Any]", seconds: float | None = None) -> Any:
    """Return what `reference` stands for, and keep this task's core meanwhile.

    While a task waits in `ray.get`, Ray lends its core to another task; when both continue, more cells run than there
    are cores. Raises the error of what is waited for, and TimeoutError after `seconds`.
    """
    return reference.future().result(seconds)
