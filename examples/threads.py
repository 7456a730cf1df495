"""Ask from several threads. Their questions become batches of one run, and each thread gets its own answers.

Prints:
    24 of 24 right
"""

from concurrent.futures import ThreadPoolExecutor

from latentmas_ray import LatentMAS


def main() -> None:
    questions = [
        {
            "question": f"Tom has {start} keys. Then Tom buys {more} more. How many keys has Tom now?",
            "gold": str(start + more),
        }
        for start in (2, 3, 4, 5, 6, 7)
        for more in (2, 3, 4, 5)
    ]
    with LatentMAS("tiny", runtime="local", latent_steps=5, temperature=0.0) as mas, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(mas.ask, questions))
    num_right = sum(answer.correct is True for answer in answers)
    print(f"{num_right} of {len(answers)} right")


if __name__ == "__main__":
    main()
