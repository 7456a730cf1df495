"""The sizes of the study: how much of everything."""

from dataclasses import dataclass, field

from examples.training.rlad.losses import GradientSettings


@dataclass(frozen=True, kw_only=True)
class WarmSettings:
    """Supervised steps before anything is rewarded."""

    num_steps: int
    batch: int = 64
    hint_share: float = 0.7  # of the solver's problems: the others come without a hint
    memory_share: float = 0.2  # of those: the hint stands where an abstraction agent's memory has it


@dataclass(frozen=True, kw_only=True)
class PlaySettings:
    """One alternation after another: the abstraction agent proposes and is fitted, then the solver is improved."""

    num_rounds: int = 2
    num_workers: int = 1
    # Rejection: hints of each problem and answers with each; a hint is kept if it beats the bare success by the margin.
    propose_steps: int = 20
    propose_problems: int = 64
    num_hints: int = 4
    num_answers: int = 8
    margin: float = 0.1
    leak_tries: int = 16
    fit_steps: int = 150
    fit_batch: int = 64
    fit_rate: float = 0.5  # at most, times the learning rates of the warm start; it rises and falls as theirs
    # Policy gradient: every `bare_every`-th problem of a step comes without a hint.
    solve_steps: int = 100
    solve_problems: int = 16
    num_samples: int = 16
    bare_every: int = 8
    num_batches: int = 4
    gradient: GradientSettings = field(default_factory=GradientSettings)


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """How policies are judged: on held-out problems, through the project's runtime."""

    num_questions: int = 1000
    num_hints: int = 4
    num_answers: int = 4
    latent_steps: int = 9  # as many as a hint has tokens
    thoughts: str = "soft"


@dataclass(frozen=True, kw_only=True)
class RladSettings:
    """All sizes of the study."""

    warm: dict[str, WarmSettings] = field(
        default_factory=lambda: {"hinter": WarmSettings(num_steps=250), "solver": WarmSettings(num_steps=180)}
    )
    play: PlaySettings = field(default_factory=PlaySettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)


MINUTE = RladSettings(
    warm={"hinter": WarmSettings(num_steps=12, batch=32), "solver": WarmSettings(num_steps=12, batch=32)},
    play=PlaySettings(
        num_rounds=1,
        propose_steps=1,
        propose_problems=4,
        num_hints=2,
        num_answers=2,
        leak_tries=2,
        fit_steps=2,
        fit_batch=8,
        solve_steps=2,
        solve_problems=4,
        num_samples=4,
        bare_every=4,
        num_batches=2,
    ),
    judge=JudgeSettings(num_questions=16, num_hints=2, num_answers=2),
)
