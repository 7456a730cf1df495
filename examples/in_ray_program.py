"""Inside a program that uses Ray already, and inside one of its actors: the agents join its cluster.

Prints:
    from the program: 5+3=8. \\boxed{8}
    from an actor: 5+3=8. \\boxed{8}
    Ray still runs: True
"""

import ray

from latentmas_ray import LatentMAS

QUESTION = "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?"


class Teacher:
    """An actor of one's own that has a team of agents."""

    def __init__(self) -> None:
        self._mas = LatentMAS("tiny", method="single", temperature=0.0)

    def ask(self, question: str) -> str:
        return self._mas.ask(question).answer


def main() -> None:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    with LatentMAS("tiny", method="single", temperature=0.0) as mas:
        print("from the program:", mas.ask(QUESTION).answer)
    teacher = ray.remote(num_cpus=0)(Teacher).remote()
    print("from an actor:", ray.get(teacher.ask.remote(QUESTION)))
    print("Ray still runs:", ray.is_initialized())
    ray.shutdown()


if __name__ == "__main__":
    main()
