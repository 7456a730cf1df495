"""A model object and its tokenizer instead of a name: whatever transformers can load and the runtime can use.

Prints:
    5+3=8. \\boxed{8}
"""

from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

import latentmas_ray
from latentmas_ray import LatentMAS

FOLDER = Path(latentmas_ray.__file__).parent / "models" / "weights" / "tiny"  # like any model's folder


def main() -> None:
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype="auto", trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=False)
    with LatentMAS(model, tokenizer=tokenizer, task="chain", latent_steps=10, runtime="local", temperature=0.0) as mas:
        print(mas.ask("Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?").answer)


if __name__ == "__main__":
    main()
