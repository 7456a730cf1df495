"""Combine working memory of separate questions: three experts think at different times, one agent reads them all.

Prints:
    agents: expert, expert-2, expert-3
    So Tom=7, Zoe=9. 7+9=16. \\boxed{16}
    kept with the answer: expert
"""

from latentmas_ray import Agent, LatentMAS, Memory, Topology

NOTES = ["Tom has 7 keys. Uma has 4 keys.", "Zoe has 9 keys. Pia has 2 keys.", "Sam has 6 keys. Nick has 8 keys."]
SUM = "How many keys have Tom and Zoe together?"
TEAM = Topology(
    name="one-expert",
    agents=[
        Agent(name="expert", prompt="Notes: {{ notes }}\nRepeat the notes.\n"),
        Agent(name="answerer", reads="expert", thinks="text", prompt="Question: {{ question }}\nAnswer.\n"),
    ],
)


def main() -> None:
    with LatentMAS("tiny", topology=TEAM, runtime="local", latent_steps=10, temperature=0.0) as mas:
        memories = [mas.think({"question": SUM, "notes": notes}) for notes in NOTES]
        merged = Memory.merge(memories)
        print("agents:", ", ".join(merged.agents))
        print(mas.ask(SUM, memory=merged).answer)

        answer = mas.ask({"question": "How many keys has Tom?", "notes": NOTES[0]}, keep_memory=True)
        assert answer.memory is not None
        print("kept with the answer:", ", ".join(answer.memory.agents))


if __name__ == "__main__":
    main()
