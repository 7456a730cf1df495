"""Answers of questions that end before their batch: on disk at once, and kept by a resumed run."""

from pathlib import Path

import pytest

from tests.cases.question_runtime import QuestionRuntime
from tests.unit.runs.test_journal import QUESTIONS, rows, run, without_times


@pytest.mark.parametrize("stop_after", [1, 4, 9])
def test_questions_that_end_before_their_batch_are_on_disk_and_stay(tmp_path: Path, stop_after: int) -> None:
    def runtime() -> QuestionRuntime:
        return QuestionRuntime(question_seconds=lambda work, name: 20.0 - float(name[1:]) % 3 * 9)

    run(tmp_path / "whole", runtime())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", runtime(), stop_after=stop_after)
    answered = [row["id"] for row in rows(tmp_path / "part")]
    assert (answered[0], len(answered)) == ("q2", stop_after)  # the shortest of the first batch
    resumed = runtime()
    run(tmp_path / "part", resumed, resume=True)
    assert without_times(rows(tmp_path / "part")) == without_times(rows(tmp_path / "whole"))
    assert sorted(name for _, name, _, _ in resumed.written) == sorted({one.id for one in QUESTIONS} - set(answered))
