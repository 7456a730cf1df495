"""Grade reference solutions as if they were answers: `python jobs/measure_graders.py gsm8k humanevalplus FILE.jsonl …`.

Of each task, by name or as a file: how many of its own worked solutions are graded right, which are not, and why.
"""

import argparse
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from latentmas_ray.tasks import grade, load_questions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", metavar="NAME|FILE", nargs="+", help="tasks whose records hold their solutions")
    parser.add_argument("--at-once", type=int, default=2, help="answers that are graded at the same time (2)")
    given = parser.parse_args()
    for task in given.tasks:
        questions = load_questions(task)
        begin = time.perf_counter()
        with ThreadPoolExecutor(given.at_once) as pool:
            grades = list(pool.map(lambda question: grade(question, solution_of(question.record)), questions))
        seconds = time.perf_counter() - begin
        wrong = {question.id: made.reason for question, made in zip(questions, grades, strict=True) if not made.correct}
        print(f"{task}: {len(questions) - len(wrong)} of {len(questions)} right, {seconds:.1f} s")
        for name, reason in wrong.items():
            print(f"  {name}: {reason or 'another answer'}")


def solution_of(record: Mapping[str, Any]) -> str:
    """A record's own solution as an agent would write it; empty where it has none."""
    if "canonical_solution" in record:  # the body of the function that the prompt begins
        return f"```python\n{record['prompt']}{record['canonical_solution']}\n```"
    if "code" in record:
        return f"```python\n{record['code']}\n```"
    return str(record.get("solution", ""))


if __name__ == "__main__":
    main()
