"""Random models of families on vLLM: `python -m tests.vllm.families` tries them, and `--write` writes the table of
docs/vllm.md. Each has a process of its own, and some 40 CPU seconds."""

import argparse
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentmas_ray.errors import LatentMASError
from tests.documents import ROOT
from tests.numerics.sweep.listing import all_families
from tests.numerics.sweep.random_models import random_model, save
from tests.vllm.child import VllmProcess

DOCUMENT = ROOT / "docs" / "vllm.md"
_BEGIN, _END = "<!-- families: written by python -m tests.vllm.families -->", "<!-- families: end -->"
SIZES = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}
_MULTIPLIERS = {
    "logits_scaling": 4.0,
    "embedding_multiplier": 6.0,
    "residual_multiplier": 0.3,
    "attention_multiplier": 0.1,
}
# Besides those that `auto` takes: other norms, multipliers, experts, biases, parts of heads that are not rotated, and
# keys rotated in interleaved pairs.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "arcee": {},
    "cohere": {},
    "ernie4_5": {"head_dim": 32},
    "gemma": {"head_dim": 32},
    "glm4": {"head_dim": 32},
    "gpt_neox": {"num_key_value_heads": 4},
    "granite": _MULTIPLIERS,
    "granitemoe": {**_MULTIPLIERS, **_EXPERTS},
    "mixtral": {**_EXPERTS, "sliding_window": None},
    "nemotron": {"head_dim": 32},
    "olmo2": {},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "phi3": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 32},
    "seed_oss": {"head_dim": 32},
    "stablelm": {},
    "starcoder2": {"sliding_window": None},
}


@dataclass(frozen=True)
class VllmOutcome:
    """What vLLM does with the memory of a family: `refusal` is empty if it reads it as our own engine does."""

    family: str
    refusal: str = ""

    @property
    def row(self) -> str:
        """A line of the table. Numbers that depend on rounding are left out."""
        said = re.sub(r" \(by [^)]*\)", "", " ".join(self.refusal.split())).replace("|", "\\|")
        return f"| `{self.family}` | {'refused: ' + said if said else 'reads memory alike'} |"


def try_on_vllm(name: str) -> VllmOutcome:
    """Load a random model in a process with vLLM, which writes a memory into its cache, and compares logits after it
    and after a plain prompt."""
    config = all_families()[name].config_class(**{**SIZES, **FAMILIES[name]})
    with tempfile.TemporaryDirectory(prefix="family-") as folder:
        save(random_model(config), config, Path(folder))
        try:
            with VllmProcess(model=folder, dtype="float32", kv_cache_bytes=2**24, max_running=4):
                return VllmOutcome(name)
        except LatentMASError as error:
            return VllmOutcome(name, str(error).replace(folder, "MODEL").partition("; ")[2])


def rows(document: Path = DOCUMENT) -> list[str]:
    """Return the rows of the document's table."""
    text = document.read_text(encoding="utf-8").partition(_BEGIN)[2].partition(_END)[0]
    return [line for line in text.splitlines() if line.startswith("| `")]


def write(outcomes: Sequence[VllmOutcome], document: Path = DOCUMENT) -> None:
    """Write the document's table."""
    before, _, rest = document.read_text(encoding="utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    lines = ["| family | memory on vLLM |", "| --- | --- |", *(one.row for one in outcomes)]
    document.write_text(f"{before}{_BEGIN}\n\n" + "\n".join(lines) + f"\n\n{_END}{after}", encoding="utf-8")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.vllm.families", description=__doc__)
    parser.add_argument("families", nargs="*", choices=[*FAMILIES, []], metavar="MODEL_TYPE", help="(default: all)")
    parser.add_argument("--write", action="store_true", help="write the table of docs/vllm.md")
    given = parser.parse_args(args)
    outcomes = []
    for name in given.families or FAMILIES:
        outcomes.append(try_on_vllm(name))
        print(outcomes[-1].row, flush=True)
    if given.write:
        write(outcomes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
