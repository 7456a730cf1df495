"""What `import latentmas_ray` offers. Other people's programs use these names, so each one stands here."""

import latentmas_ray
from tests.architecture.test_startup import HEAVY, imported_by

PUBLIC_NAMES = [
    "Agent",
    "Answer",
    "Churn",
    "ConfigError",
    "ControlsSummary",
    "Failure",
    "FinishedRun",
    "InputError",
    "LatentMAS",
    "LatentMASError",
    "Memory",
    "MemoryFinished",
    "Observer",
    "OldNameWarning",
    "Question",
    "QuestionAnswered",
    "QuestionFailed",
    "QuestionsFailedError",
    "ResultStream",
    "RunConfig",
    "RunEnded",
    "RunError",
    "RunEvent",
    "RunProgress",
    "RunStarted",
    "SeedsSummary",
    "SegmentError",
    "Summary",
    "TextWritten",
    "Topology",
    "TopologyError",
    "TurnFinished",
    "TurnRepeated",
    "UntrainedQuestionWarning",
    "UnusedSettingWarning",
    "__version__",
    "churn",
    "load_run",
]


def test_the_public_names_are_the_promised_ones() -> None:
    assert sorted(latentmas_ray.__all__) == PUBLIC_NAMES


def test_every_public_name_is_there() -> None:
    assert [name for name in PUBLIC_NAMES if getattr(latentmas_ray, name, None) is None] == []


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = "import json, sys, latentmas_ray\nprint(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    assert imported_by(program) & HEAVY == set()
