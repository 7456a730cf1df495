"""The names that published benchmarks give to the fields of a record. Upper case, `_`, `-` and spaces do not count."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

ID_NAMES = (
    "id",
    "questionid",
    "qid",
    "uid",
    "uuid",
    "exampleid",
    "uniqueid",
    "recordid",
    "taskid",
    "idx",
    "ind",
    "index",
)
QUESTION_NAMES = (
    "question",
    "questionstem",
    "questiontext",
    "stem",
    "problem",
    "query",
    "goal",  # PIQA
    "ctx",  # HellaSwag
    "sentence",  # WinoGrande
    "input",
    "inputs",  # BIG-bench
)
# What a question is about. No built-in topology shows it.
CONTEXT_NAMES = frozenset(
    {"article", "background", "context", "dialogue", "narrative", "paragraph", "passage", "premise", "story"}
)

# Fields that hold all options of a question.
OPTION_NAMES = frozenset(
    {
        "options",
        "option",
        "opts",
        "choices",
        "choice",
        "answerchoices",
        "answeroptions",
        "possibleanswers",
        "endings",
        "candidates",
        "alternatives",
        "mc1targets",  # TruthfulQA: which one is right stands in it
        "targetscores",  # BIG-bench
        "multiplechoicetargets",
    }
)
# Elsewhere `answers` lists all texts that are right, so it holds options only where the gold is a letter or a number.
WEAK_OPTION_NAMES = frozenset({"answers"})
SCORE_NAMES = {"multiplechoicetargets": "multiplechoicescores"}  # options: which of them is right

# `option_a`, `ending0`, `sol1`, `opa`, `answerA`: one option a field.
COLUMN_PREFIXES = (
    "option",
    "opt",
    "op",
    "choice",
    "ending",
    "solution",
    "sol",
    "alternative",
    "candidate",
    "hypothesis",
    "mcanswer",
    "answer",
    "ans",
)

CORRECT_NAMES = ("correctanswer", "bestanswer")  # with the wrong options in fields of their own
WRONG_LIST_NAMES = ("incorrectanswers", "wronganswers", "distractors")
WRONG_PREFIXES = ("incorrectanswer", "wronganswer", "distractor")

# Fields that say which option is right, the most telling ones first. `gold` alone decides where a record has it.
GOLD_NAMES = (
    "gold",
    "answerkey",
    "answeridx",
    "answerindex",
    "answerid",
    "answernumber",
    "answerletter",
    "answerlabel",
    "answeroption",
    "answerchoice",
    "correctidx",
    "correctindex",
    "correctid",
    "correctanswerid",
    "correctansweridx",
    "correctanswerindex",
    "correctoption",
    "correctoptionindex",
    "correctchoice",
    "correctletter",
    "correctlabel",
    "correctanswer",
    "correct",
    "cop",  # MedMCQA
    "goldindex",
    "goldidx",
    "goldlabel",
    "rightanswer",
    "rightoption",
    "answer",
    "label",
    "target",
    "answertext",
    "ans",
    "key",
    "solution",
)
INDEX_NAMES = ("idx", "index", "number", "cop", "id")  # how the name of a field ends whose numbers are no texts
TEXT_NAMES = ("text",)  # how the name of a field ends whose values are texts


def plain_key(name: str) -> str:
    """Return the name of a field in lower case, letters and digits only: `Correct Answer` as `correctanswer`."""
    return "".join(char for char in name.lower() if char.isalnum())


def find_key(record: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """Return the key of the record that has the first of these names; a key that is written like it comes first."""
    by_name = keys_by_name(record)
    return next((by_name[name] for name in names if name in by_name), None)


def keys_by_name(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the record's keys by their plain names; of several with one plain name that which is written like it, else
    the first."""
    by_name: dict[str, str] = {}
    for key in record:
        if isinstance(key, str):
            name = plain_key(key)
            if key == name or name not in by_name:
                by_name[name] = key
    return by_name


def gold_keys(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name, key) of the fields that may say which option is right: `gold` alone if it is there, else all."""
    by_name = keys_by_name(record)
    names = ("gold",) if "gold" in by_name else GOLD_NAMES
    return ((name, by_name[name]) for name in names if name in by_name)
