"""Ends the text of a model without a chat template where it asks itself a new question: such models do not stop."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from latentmas_ray.engine.turn import Prompt
from latentmas_ray.tasks.grading.final_part import new_question_at

if TYPE_CHECKING:
    from latentmas_ray.models.chat import ChatTokenizer

_CHECKED_TOKENS = 4096  # at the end of an output
_ENDS = ("\n", "?", "？")  # behind these, a question has been asked


class RunOnCheck:
    """Finds a new question in outputs, which then end before it. `questions` are the texts of the prompts: a model may
    repeat what was asked. With a chat template nothing is ever found."""

    def __init__(self, chat: "ChatTokenizer", questions: Sequence[str]) -> None:
        self._chat = chat
        self._questions = questions

    @property
    def is_on(self) -> bool:
        return not self._chat.has_template and bool(self._questions)

    def num_kept(self, row: int, output: Sequence[int]) -> int | None:
        """Return how many tokens of the output of question `row` come before a new question; None without one, or
        while that is not asked to its end."""
        if not self.is_on or not self._chat.decode(output[-1:]).rstrip(" ").endswith(_ENDS):
            return None
        begin = max(0, len(output) - _CHECKED_TOKENS)
        text = self._chat.decode(output[begin:])
        end = new_question_at(text, self._questions[row])
        if end is None or not text[end:].strip() or text[end:].strip().endswith((":", "：")):
            return None
        end = len(text[:end].rstrip())
        kept = len(output)
        while kept > begin and len(self._chat.decode(output[begin:kept]).rstrip()) > end:
            kept -= 1
        return kept


def asked(prompts: Sequence[Prompt]) -> list[str]:
    """Return the text of each prompt, as `RunOnCheck` needs it."""
    return ["\n".join(message["content"] for message in prompt.messages) for prompt in prompts]
