"""What the run's process and its drivers tell each other: lines of JSON over the driver's standard input and output.

To a driver: the setup, once; `start` (start the runtime), answered by `started`; `answer` (these batches), answered by
`progress` now and then and `done` at the end. The answers themselves are rows of the driver's journal. A driver whose
input ends closes its runtime and ends.
"""

import base64
import json
import pickle
from typing import IO, Any

from latentmas_ray.errors import LatentMASError, RunError

Message = dict[str, Any]


def write_message(file: IO[bytes], **message: Any) -> None:
    """Write one message. Raises OSError if the other end is gone."""
    file.write(json.dumps(message).encode() + b"\n")
    file.flush()


def read_message(line: bytes) -> Message | None:
    """Return the message of a line; None for one that was cut off or is something else."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and isinstance(message.get("type"), str) else None


def pack_error(error: BaseException) -> str:
    """Return an error as text. One that is not this project's becomes a RunError with its name."""
    own = error if isinstance(error, LatentMASError) else RunError(f"a driver failed: {error!r}")
    return base64.b64encode(pickle.dumps(own)).decode()


def unpack_error(text: str) -> LatentMASError:
    """Return the error that `pack_error` packed, in a message of a process that this one has started."""
    error = pickle.loads(base64.b64decode(text))
    assert isinstance(error, LatentMASError)
    return error
