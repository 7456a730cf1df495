"""Evaluation of a task under several memory controls, one after another on the same actors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from latentmas_ray.config import MemoryName, RunConfig
from latentmas_ray.runs.controls.names import control_output
from latentmas_ray.runs.controls.summary import ControlsOutput, summarise_controls
from latentmas_ray.runs.hints.figures import mean_scores, score_questions
from latentmas_ray.runs.hints.scores import Scores
from latentmas_ray.runs.results import Answer, mean_or_zero
from latentmas_ray.system.evaluation import Evaluated, Evaluation, OnSeed, check_no_steps, evaluate_settings
from latentmas_ray.tasks import grade

OnControl = Callable[[MemoryName], None]


class ControlsEvaluation:
    """Answers and grades the questions of a task once for each control, and sums up what memory is worth."""

    def __init__(
        self,
        config: RunConfig,
        evaluations: Mapping[MemoryName, Evaluation],
        check: Callable[[RunConfig], None],
        on_control: OnControl,
    ) -> None:
        """`config` is that of the matched run; its output has a folder for each control. `check` raises ConfigError for
        a number of latent steps that does not fit. `on_control` is called with each control before it starts."""
        self._config, self._evaluations, self._check, self._on_control = config, evaluations, check, on_control

    def run(self, seeds: str | Sequence[int] | None, latent_steps: Sequence[int] | None, on_seed: OnSeed) -> object:
        """Evaluate, see `evaluate_settings`: returns a ControlsSummary, or one for each number of latent steps."""
        return evaluate_settings(self._config, self._check, self.opened, seeds, latent_steps, on_seed)

    @contextmanager
    def opened(
        self, config: RunConfig, seeds: Sequence[int] | None, on_seed: OnSeed
    ) -> Iterator[Callable[[], Evaluated]]:
        """Open the outputs of all controls of one configuration; yields the function that evaluates them."""
        if config.output is not None:
            check_no_steps(config.output)
        with ControlsOutput(config.output, [*self._evaluations]) as output, ExitStack() as stack:
            opened = {
                name: stack.enter_context(evaluation.opened(_config_of(config, name), seeds, on_seed))
                for name, evaluation in self._evaluations.items()
            }
            output.start()
            yield partial(self._evaluate, config, opened, output)

    def _evaluate(
        self, config: RunConfig, opened: Mapping[MemoryName, Callable[[], Evaluated]], output: ControlsOutput
    ) -> Evaluated:
        found = {}
        # The answering agent alone comes last: the actors of the others, which were started before, have it too.
        for name in sorted(opened, key=lambda name: name == "none"):
            self._on_control(name)
            found[name] = opened[name]()
        answers = {name: found[name].answers for name in opened}
        summary = summarise_controls(
            config,
            {name: found[name].summary for name in opened},
            answers,
            adopted_anyway=self._adopted_anyway(answers["matched"]),
            hint_scores={} if config.abstractions is None else self._hint_scores(config, answers),
        )
        output.finish(summary)
        return Evaluated(summary, answers["matched"])

    def _hint_scores(
        self, config: RunConfig, answers: Mapping[MemoryName, Sequence[Sequence[Answer]]]
    ) -> dict[MemoryName, dict[str, Scores]]:
        """Return the scores of each question with hints under each control, means over the seeds."""
        found = {}
        for name, runs in answers.items():
            questions = {question.id: question for question in self._evaluations[name].questions}
            found[name] = mean_scores([score_questions(run, questions, seed=config.seed) for run in runs])
        return found

    def _adopted_anyway(self, runs: Sequence[Sequence[Answer]]) -> float | None:
        """Return the share of matched answers that equal the wrong gold; None without the control corrupted."""
        if (corrupted := self._evaluations.get("corrupted")) is None:
            return None
        questions = {question.id: question for question in corrupted.questions}
        graded = [grade(questions[answer.id], answer.answer) for answers in runs for answer in answers]
        return mean_or_zero([bool(one.adopted) for one in graded])


def _config_of(config: RunConfig, control: MemoryName) -> RunConfig:
    return config.with_folders(partial(control_output, control=control), memory=control)
