"""The curriculum: first looking back for a word, then short notes, then everything, then mostly soft tokens."""

from examples.tiny_model.document import Mix

# (last step + 1, mix)
_STAGES: tuple[tuple[int, Mix], ...] = (
    (
        50,
        Mix(recall=0.3, drill=0.2, chain=0.05, num_experts=(1, 2), num_facts=(1, 2), wanted=("look-up",), max_recall=8,
            max_filler=8, max_gap=0),
    ),
    (
        130,
        Mix(recall=0.2, drill=0.2, chain=0.25, num_experts=(1, 3), num_facts=(1, 3), max_recall=24, max_filler=12,
            wanted=("look-up", "look-up", "comparison", "sum", "difference"), max_gap=20, soft=0.2),
    ),
    # Word problems and sums are short, and notes fill the rest of a row: hence the large shares of the former.
    (320, Mix(recall=0.08, drill=0.2, chain=0.4, soft=0.4, blind=0.05, solo=0.7)),
)  # fmt: skip
_REST = Mix(recall=0.05, drill=0.12, chain=0.35, soft=0.6, blind=0.06, solo=0.5, max_gap=120)


def mix_at(step: int) -> Mix:
    """Return the mix of documents of this step."""
    return next((mix for until, mix in _STAGES if step < until), _REST)
