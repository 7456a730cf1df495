"""Ask many questions: in their order, in the order of finishing, and with failures as results.

Prints:
    q0: 7-2=5. \\boxed{5}
    q1: 4+6=10. \\boxed{10}
    q2: 3*2=6. 6-1=5. \\boxed{5}
    finished: q0, q1, q2
    graded: True, True
"""

from latentmas_ray import Failure, LatentMAS

QUESTIONS = [
    "Tom has 7 keys. Then Tom loses 2. How many keys has Tom now?",
    "Uma has 4 cups. Then Uma buys 6 more. How many cups has Uma now?",
    "Zoe has 3 pens. Then Zoe doubles the number. Then Zoe sells 1. How many pens has Zoe now?",
]


def main() -> None:
    with LatentMAS("tiny", runtime="local", latent_steps=5, temperature=0.0, batch_size=2) as mas:
        for answer in mas.map(QUESTIONS):
            print(f"{answer.id}: {answer.answer}")
        print("finished:", ", ".join(sorted(answer.id for answer in mas.as_completed(QUESTIONS))))

        # A record with a gold is graded. With `return_failures` a question without an answer gives a Failure in its
        # place; without it, QuestionsFailedError is raised after the last answer.
        records = [{"question": QUESTIONS[0], "gold": "5"}, {"question": QUESTIONS[1], "gold": "10"}]
        graded = []
        for result in mas.map(records, return_failures=True):
            graded.append(f"failed: {result.error}" if isinstance(result, Failure) else str(result.correct))
        print("graded:", ", ".join(graded))


if __name__ == "__main__":
    main()
