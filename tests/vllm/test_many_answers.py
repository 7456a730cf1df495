"""Many questions of both tasks: what vLLM writes is what our own engine writes, token by token.

Slow: it asks thousands of questions on both engines. `test_answers.py` asks some of each kind in the quick run.
"""

import pytest

from tests.vllm.asked import DAG, OwnEngine, differences, num_equal
from tests.vllm.child import VllmProcess

KINDS = {
    "sequential": {"topology": "sequential"},
    "hierarchical": {"topology": "hierarchical"},
    "graph of five agents": {"topology": DAG},
    "prompt-only": {"topology": "hierarchical", "memory": "prompt-only"},
    "latent-only": {"topology": "sequential", "memory": "latent-only"},
    "deranged": {"topology": "sequential", "memory": "deranged"},
    "none": {"topology": "sequential", "memory": "none"},
    "single": {"topology": "single", "method": "single"},
}
STEPS = {"notes": 40, "chain": 10}
ROUNDING = 1e-5  # of a probability in float32; about 1e-6 is seen


@pytest.mark.slow
@pytest.mark.parametrize("task", STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_many_answers_are_equal(kind: str, task: str, own: OwnEngine, vllm: VllmProcess) -> None:
    """200 greedy answers, and with the same memories drawn ones at two temperatures."""
    steps = {} if kind in ("none", "single") else {"latent_steps": STEPS[task]}
    asked = own.ask("many", task, 200, **KINDS[kind], **steps, temperature=0)
    greedy = vllm.write([one.request for one in asked])
    assert num_equal(asked, greedy) == len(asked) == 200
    for temperature in (0.7, 1.3):
        drawn = own.draw(asked[:100], temperature)
        written = vllm.write([one.request for one in drawn])
        on_border = differences(drawn, written)
        assert len(on_border) <= 1
        assert all(own.border_distance(one, step) < ROUNDING for one, step in on_border)
        if kind == "none":  # nothing is certain without memory
            assert num_equal(drawn, greedy) < len(drawn)


def test_a_random_number_may_lie_on_the_border_of_two_tokens(own: OwnEngine, vllm: VllmProcess) -> None:
    """Then rounding decides, which differs between batches of our own engine, too. This question was found so."""
    asked = own.ask("border", "notes", 4, **KINDS["none"], temperature=0.6, top_p=0.95)
    *others, found = asked
    assert num_equal(others, vllm.write([one.request for one in others])) == 3
    *before, on_border = [own.border_distance(found, step) for step in range(4)]
    assert on_border < ROUNDING
    assert min(before) > 100 * ROUNDING
