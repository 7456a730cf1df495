"""Train an embedded model from scratch: `python -m examples.tiny_model FOLDER`, from a checkout.

FOLDER gets the state to go on from, the figures of every ten steps (`history.jsonl`), curves (`curves.png`) and the
model (`model/`, for `--model FOLDER/model`). Run it again to go on: data and order are those of an undisturbed run.
"""

import argparse
from pathlib import Path

import torch

from examples.tiny_model.designs import DESIGNS
from examples.tiny_model.run import train

parser = argparse.ArgumentParser(
    prog="python -m examples.tiny_model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("folder", type=Path)
parser.add_argument("--design", choices=list(DESIGNS), default="tiny", help="which of the models (default: tiny)")
parser.add_argument("--steps", type=int, help="until this step (default: 930 for tiny, 730 for small)")
parser.add_argument("--seed", type=int, default=2511, help="of the data and the first weights (default: 2511)")
parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="needs a C++ compiler")
arguments = parser.parse_args()
torch.set_num_threads(arguments.threads)
design = DESIGNS[arguments.design]
num_steps = arguments.steps or design.num_steps
train(arguments.folder, design, num_steps=num_steps, seed=arguments.seed, compiled=arguments.compile)
