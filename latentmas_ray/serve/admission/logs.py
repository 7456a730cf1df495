"""The log of an endpoint: a line for each request, and their bodies only where that is asked for."""

import logging
import sys
from typing import Final

ACCESS_LOG: Final = logging.getLogger("latentmas_ray.serve.access")
PROMPT_LOG: Final = logging.getLogger("latentmas_ray.serve.prompts")
_FORM: Final = "%(asctime)s %(message)s"


def log_requests() -> None:
    """Write both logs to standard error, unless their handlers are set already. Call it once, in the process that
    serves."""
    for log in (ACCESS_LOG, PROMPT_LOG):
        if not log.handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter(_FORM))
            log.addHandler(handler)
            log.setLevel(logging.INFO)
            log.propagate = False
