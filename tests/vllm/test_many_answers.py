"""Many questions of both tasks: what vLLM writes is what our own engine writes, token by token.

Slow: it asks thousands of questions on both engines. `test_answers.py` asks some of each kind in the quick run.
"""

import pytest

from tests.vllm.asked import DAG, OwnEngine, num_equal
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
CASES = [(kind, task, 0.0, 200) for task in STEPS for kind in KINDS]
CASES += [(kind, task, heat, 100) for task in STEPS for heat in (0.7, 1.3) for kind in ("sequential", "hierarchical")]
CASES += [(kind, "notes", 1.3, 40) for kind in KINDS if kind not in ("sequential", "hierarchical")]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "task", "temperature", "count"), CASES)
def test_many_answers_are_equal(
    kind: str, task: str, temperature: float, count: int, own: OwnEngine, vllm: VllmProcess
) -> None:
    steps = {} if kind in ("none", "single") else {"latent_steps": STEPS[task]}
    fields = {**KINDS[kind], **steps, "temperature": temperature, "top_p": 0.95 if temperature else 1.0}
    asked = own.ask("many", task, count, **fields)
    written = vllm.write([one.request for one in asked])
    assert num_equal(asked, written) == len(asked) == count
