"""Write a random model of a well-known shape as a model folder: `python jobs/make_random_model.py qwen3-0.6b FOLDER`.

For trying and measuring on machines that reach no model hub: memory and time are those of the real model.
"""

import argparse
from pathlib import Path

from latentmas_ray.models.presets import SHAPES, save_random_model

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("shape", choices=SHAPES)
parser.add_argument("folder", type=Path)
parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
arguments = parser.parse_args()
save_random_model(arguments.shape, arguments.folder, dtype=arguments.dtype)
print(f"{arguments.folder}: random weights of shape {arguments.shape}")
