"""Evaluate over numbers of latent steps and over seeds, on the same loaded models.

Prints:
    0 latent steps: 8 of 8 questions
    5 latent steps: 8 of 8 questions
    seeds (1, 2): 8 questions each
"""

from latentmas_ray import LatentMAS


def main() -> None:
    with LatentMAS("tiny", topology="hierarchical", runtime="local", batch_size=8) as mas:
        by_steps = mas.evaluate("notes", limit=8, latent_steps=[0, 5])
        for steps, summary in by_steps.items():
            num_answered = summary.num_questions - summary.num_failed
            print(f"{steps} latent steps: {num_answered} of {summary.num_questions} questions")
            assert summary.accuracy is not None
            assert summary.accuracy > 0.7
        over_seeds = mas.evaluate("notes", limit=8, seeds=[1, 2], latent_steps=5)
        print(f"seeds {over_seeds.seeds}: {over_seeds.num_questions} questions each")


if __name__ == "__main__":
    main()
