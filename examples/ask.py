"""Ask one question, and see what each agent spent on it.

Prints:
    5+3=8. \\boxed{8}
    planner: 10 latent thoughts, 0 output tokens
    critic: 10 latent thoughts, 0 output tokens
    refiner: 10 latent thoughts, 0 output tokens
    judger: 0 latent thoughts, 11 output tokens
"""

from latentmas_ray import LatentMAS


def main() -> None:
    with LatentMAS("tiny", topology="sequential", latent_steps=10, runtime="local", temperature=0.0) as mas:
        answer = mas.ask("Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?")
    print(answer.answer)
    for name, use in answer.agents.items():
        print(f"{name}: {use.latent_steps} latent thoughts, {use.output_tokens} output tokens")


if __name__ == "__main__":
    main()
