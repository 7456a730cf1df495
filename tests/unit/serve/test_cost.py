"""The estimate of a request's working memory."""

from latentmas_ray.serve.admission.cost import estimate_bytes
from latentmas_ray.tasks.question import EarlierMessage, Question
from latentmas_ray.topology import Topology

TOPOLOGY = Topology.parse(
    "name: t\nagents:\n- {name: a, prompt: 'aaa'}\n- {name: b, reads: a, thinks: text, prompt: 'bbb'}"
)
PER_TOKEN = {"a": 10, "b": 10}


def cost(question: Question, *, latent_steps: int | str = 4, max_new_tokens: int = 5, samples: int = 1) -> int:
    return estimate_bytes(
        question,
        TOPOLOGY,
        PER_TOKEN,
        latent_steps=latent_steps,
        max_new_tokens=max_new_tokens,
        samples=samples,
    )


def asked(text: str) -> Question:
    return Question(id="q", question=text, kind="text", gold=None, record={})


def test_prompts_thoughts_and_the_answer_count() -> None:
    # 30 characters of the question and 3 of the prompt are 11 tokens, for each agent.
    assert cost(asked("x" * 30)) == 10 * (11 + 4) + 10 * (11 + 5)


def test_more_of_anything_is_more_memory() -> None:
    question = asked("x" * 30)
    least = cost(question)
    assert cost(asked("x" * 60)) > least
    assert cost(asked("ä" * 30)) > least
    assert cost(question, latent_steps="max:40") > least
    assert cost(question, max_new_tokens=50) > least
    assert cost(question, samples=2) > least
    assert cost(question.with_earlier("be brief", (EarlierMessage("user", "hi"),))) > least
