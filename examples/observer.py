"""Watch runs: an observer gets every event, from the start of a run to its end.

Prints:
    4 questions
    planner, critic, refiner, judger: 2 turns each
    4 answers, 0 failures
    4 of 4 done
"""

from collections import Counter

from latentmas_ray import (
    LatentMAS,
    QuestionAnswered,
    QuestionFailed,
    RunEnded,
    RunEvent,
    RunProgress,
    RunStarted,
    TurnFinished,
)


class Reporter:
    """Counts the events that it receives, and prints them at the end. It ignores events that it does not know."""

    def __init__(self) -> None:
        self.turns: Counter[str] = Counter()
        self.num_answers = self.num_failures = 0
        self.latest: RunProgress | None = None

    def on_event(self, event: RunEvent) -> None:
        match event:
            case RunStarted():
                print(f"{event.num_questions} questions")
            case TurnFinished():
                self.turns[event.report.agent] += 1
            case QuestionAnswered():
                self.num_answers += 1
            case QuestionFailed():
                self.num_failures += 1
            case RunProgress():
                self.latest = event
            case RunEnded():
                print(f"{', '.join(self.turns)}: {self.turns['planner']} turns each")
                print(f"{self.num_answers} answers, {self.num_failures} failures")
                if self.latest is not None:
                    print(f"{self.latest.num_done} of {self.latest.num_questions} done")


def main() -> None:
    questions = [f"Tom has {count} keys. Then Tom loses 2. How many keys has Tom now?" for count in (5, 6, 7, 8)]
    with LatentMAS("tiny", runtime="local", latent_steps=5, batch_size=2, observer=Reporter()) as mas:
        list(mas.map(questions))


if __name__ == "__main__":
    main()
