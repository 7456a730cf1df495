"""Working memory as an object: have agents think once, save their memory, and answer several questions from it.

Prints:
    agents: expert_1, expert_2, expert_3
    How many keys have Tom and Zoe together? So Tom=7, Zoe=9. 7+9=16. \\boxed{16}
    How many keys has Pia? So Pia=2. \\boxed{2}
    the same without KV: True
"""

import tempfile
from pathlib import Path

from latentmas_ray import LatentMAS, Memory

NOTES = ["Tom has 7 keys. Uma has 4 keys.", "Zoe has 9 keys. Pia has 2 keys.", "Sam has 6 keys. Nick has 8 keys."]
SUM = "How many keys have Tom and Zoe together?"


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    team = LatentMAS("tiny", task="notes", topology="hierarchical", latent_steps=10, runtime="local", temperature=0.0)
    with team as mas:
        memory = mas.think({"question": SUM, "notes": NOTES})  # all agents but the answering one
        print("agents:", ", ".join(memory.agents))
        memory.save(folder / "notes.safetensors")

        # Here or in another process: only the answering agent works, and it sees the question and the memory alone.
        loaded = Memory.load(folder / "notes.safetensors")
        for question in (SUM, "How many keys has Pia?"):
            print(question, mas.ask(question, memory=loaded).answer)

        # Without KV the file is many times smaller, and the reader computes the KV again.
        memory.save(folder / "small.safetensors", kv=False)
        again = mas.ask(SUM, memory=Memory.load(folder / "small.safetensors"))
        print("the same without KV:", again.answer == mas.ask(SUM, memory=memory).answer)


if __name__ == "__main__":
    main()
