"""Agents and a topology of one's own, checked where they are made.

Prints:
    So Tom=7, Zoe=9. 7+9=16. \\boxed{16}
    refused: agents.answerer.reads: got 'readr'; there is no agent of that name; the other agents are reader
"""

from latentmas_ray import Agent, LatentMAS, Topology, TopologyError

READER = Agent(name="reader", prompt="Notes: {{ notes }}\nRepeat the notes.\n", latent_steps=10)
ANSWERER = Agent(name="answerer", reads="reader", thinks="text", prompt="Question: {{ question }}\nAnswer.\n")


def main() -> None:
    team = Topology(name="reader-and-answerer", agents=[READER, ANSWERER])
    question = {
        "question": "How many keys have Tom and Zoe together?",
        "notes": "Tom has 7 keys. Uma has 4 keys. Zoe has 9 keys.",
    }
    with LatentMAS("tiny", topology=team, runtime="local", temperature=0.0) as mas:
        print(mas.ask(question).answer)
    try:
        Topology(name="misspelt", agents=[READER, Agent(name="answerer", reads="readr", thinks="text", prompt="…")])
    except TopologyError as error:
        print("refused:", error)


if __name__ == "__main__":
    main()
