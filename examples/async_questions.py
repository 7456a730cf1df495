"""Ask from an event loop: several questions at once, and a stream of answers.

Prints:
    7-2=5. \\boxed{5}
    4+6=10. \\boxed{10}
    q0 of 2
    q1 of 2
"""

import asyncio

from latentmas_ray import LatentMAS

QUESTIONS = [
    "Tom has 7 keys. Then Tom loses 2. How many keys has Tom now?",
    "Uma has 4 cups. Then Uma buys 6 more. How many cups has Uma now?",
]


async def ask_all(mas: LatentMAS) -> None:
    for answer in await asyncio.gather(*(mas.aask(question) for question in QUESTIONS)):
        print(answer.answer)
    async for answer in mas.map(QUESTIONS):
        print(f"{answer.id} of {len(QUESTIONS)}")


def main() -> None:
    with LatentMAS("tiny", runtime="local", latent_steps=5, temperature=0.0) as mas:
        asyncio.run(ask_all(mas))


if __name__ == "__main__":
    main()
