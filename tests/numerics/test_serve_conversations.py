"""Conversations whose working memory an endpoint keeps: real models in this process."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry
from transformers import AutoModelForCausalLM

from latentmas_ray.models.names import EMBEDDED_FOLDER
from latentmas_ray.serve.admission.keys import ApiKeys, make_key
from latentmas_ray.serve.admission.limits import ServeLimits
from latentmas_ray.serve.api.errors import ApiError
from latentmas_ray.serve.conversations.asked import ConversationAsked
from latentmas_ray.serve.conversations.limits import ConversationLimits
from latentmas_ray.serve.conversations.store import ConversationStore, KeptConversation
from latentmas_ray.system.serving import ChatExchange
from latentmas_ray.tasks import answer_form
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology.prompts import render_prompt
from tests.cases.held_turns import PATIENCE_SECONDS, hold_turns
from tests.cases.team_app import TeamApp

SAID = [
    "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?",
    "Then Nadia loses 2 beads. How many beads has Nadia now?",
    "Then Nadia finds 4 more. How many beads has Nadia now?",
]
KEYS = {name: make_key(name) for name in ("anna", "ben")}
HEADERS = {name: {"Authorization": f"Bearer {key.key}"} for name, key in KEYS.items()}
TEAM = "latentmas/sequential"


@pytest.fixture(scope="module")
def served() -> Iterator[TeamApp]:
    keys = ApiKeys.from_environment(",".join(key.entry for key in KEYS.values()))
    with TeamApp(ServeLimits(keys=keys), ("hierarchical",)) as app:
        yield app


def body(messages: list[dict[str, str]], name: str | None, model: str = TEAM, **more: Any) -> dict[str, Any]:
    options = {} if name is None else {"latentmas": {"conversation": name}}
    return {"model": model, "messages": messages, "temperature": 0, **options, **more}


def ask(served: TeamApp, request: dict[str, Any], key: str = "anna") -> Any:
    return served.ask("POST", "/v1/chat/completions", request, HEADERS[key])


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def converse(served: TeamApp, name: str, model: str, num_turns: int = 3) -> tuple[list[dict[str, str]], list[Any]]:
    """Hold a conversation; return its messages, without the last answer, and the bodies of all responses."""
    messages: list[dict[str, str]] = []
    found: list[Any] = []
    for text in SAID[:num_turns]:
        if found:
            messages.append({"role": "assistant", "content": found[-1]["choices"][0]["message"]["content"]})
        messages.append(user(text))
        found.append(ask(served, body(messages, name, model)).json())
    return messages, found


@pytest.mark.parametrize("model", [TEAM, f"{TEAM}/text", f"{TEAM}/single", "latentmas/hierarchical"])
def test_what_is_kept_and_what_is_computed_again_give_the_same_answer(served: TeamApp, model: str) -> None:
    name = model.replace("/", ".")
    messages, found = converse(served, name, model)
    again = ask(served, body(messages, f"{name}-lost", model)).json()
    assert again["choices"] == found[-1]["choices"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    used, lost = found[-1]["usage"], again["usage"]
    assert used["prompt_tokens_details"]["cached_tokens"] > 0
    # The prompts of the agents are those of the last question alone.
    assert used["prompt_tokens"] - used["prompt_tokens_details"]["cached_tokens"] == lost["prompt_tokens"]
    assert served.ask("DELETE", f"/v1/conversations/{name}", headers=HEADERS["anna"]).json()["deleted"] is True
    deleted = ask(served, body(messages, name, model)).json()
    assert deleted["choices"] == found[-1]["choices"]


def test_the_second_turn_computes_its_own_prompts_alone(served: TeamApp) -> None:
    messages, found = converse(served, "alone", TEAM, 2)
    fresh = ask(served, body([user(SAID[1])], None)).json()["usage"]
    plain = ask(served, body(messages, None)).json()["usage"]
    used = found[1]["usage"]
    cached = used["prompt_tokens_details"]["cached_tokens"]
    assert used["prompt_tokens"] - cached == fresh["prompt_tokens"] < plain["prompt_tokens"]
    kept = served.ask("GET", "/v1/conversations/alone", headers=HEADERS["anna"]).json()
    assert (kept["exchanges"], kept["model"]) == (2, TEAM)
    assert kept["kept_tokens"] > cached  # the second exchange, too


def test_the_agents_read_what_was_said_before_their_prompts(served: TeamApp) -> None:
    """A single agent writes what its model writes on the tokens of the exchanges, then of its prompt."""
    model = f"{TEAM}/single"
    messages, found = converse(served, "tokens", model, 2)
    kept = served.endpoint.conversations.get("tokens", "anna")
    served.run(wait_for(kept))
    first = next(iter(kept.memory.segments.values()))
    variant = served.teams.models[model]
    (agent,) = variant.topology.agents
    chat = variant.setup.chat_of(agent.name)
    question = Question(id="q", question=SAID[1], kind="text", gold=None, record={"question": SAID[1]})
    prompt = render_prompt(agent, question, answer_form=answer_form("text"))
    ids = [*first.inputs.token_ids_T.tolist(), *chat.encode(prompt.messages, agent.template, prompt.suffix)]
    assert SAID[0] in chat.show(ids)
    assert messages[1]["content"] in chat.show(ids)
    lm = AutoModelForCausalLM.from_pretrained(EMBEDDED_FOLDER, dtype=torch.float32)
    made = lm.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=24, eos_token_id=list(chat.stop_ids))
    assert chat.decode(made[0, len(ids) :].tolist()) == found[1]["choices"][0]["message"]["content"]


async def wait_for(kept: KeptConversation) -> None:
    if kept.adding is not None:
        await kept.adding


def test_a_stream_keeps_its_conversation_and_counts_cached_tokens(served: TeamApp) -> None:
    messages, found = converse(served, "streamed", TEAM, 2)
    text = ask(served, body(messages, "streamed", stream=True, stream_options={"include_usage": True})).text
    assert f'"cached_tokens":{found[1]["usage"]["prompt_tokens_details"]["cached_tokens"]}' in text
    assert served.ask("GET", "/v1/conversations/streamed", headers=HEADERS["anna"]).json()["exchanges"] == 2


def test_a_question_may_be_asked_again(served: TeamApp) -> None:
    messages, found = converse(served, "again", TEAM, 3)
    assert ask(served, body(messages, "again")).json()["choices"] == found[2]["choices"]
    assert ask(served, body(messages[:1], "again")).json()["choices"] == found[0]["choices"]
    kept = served.ask("GET", "/v1/conversations/again", headers=HEADERS["anna"]).json()
    assert kept["exchanges"] == 1


def changed(messages: list[dict[str, str]], index: int, **fields: str) -> list[dict[str, str]]:
    return [{**one, **fields} if place == index else one for place, one in enumerate(messages)]


def test_what_contradicts_a_conversation_is_refused_in_one_line(served: TeamApp) -> None:
    messages, _ = converse(served, "refused", TEAM, 2)
    third = [*messages, {"role": "assistant", "content": "8"}, user(SAID[2])]
    cases: list[tuple[int, dict[str, Any], str, str]] = [
        (409, body(changed(messages, 0, content="Nadia has 9 beads."), "refused"), "exchange 1 was another", "anna"),
        (409, body(changed(messages, 1, content="5"), "refused"), "the answer of its exchange 1", "anna"),
        (409, body(third, "refused"), "the answer of its exchange 2", "anna"),
        (409, body([user("And now?")], "refused"), "send all its messages", "anna"),
        (409, body([{"role": "system", "content": "Be brief."}, *messages], "refused"), "system message", "anna"),
        (409, body(messages, "refused", f"{TEAM}/single"), f"it is one with {TEAM}", "anna"),
        (404, body(messages, "refused"), "there is no conversation 'refused'", "ben"),
        (400, body(messages, "refused", n=2), "n: ", "anna"),
        (400, body(messages, "re fused"), "it must have 1 to 64 letters", "anna"),
        (400, body(messages, ""), "it must have 1 to 64 letters", "anna"),
    ]
    for status, request, reason, key in cases:
        response = ask(served, request, key)
        assert (response.status_code, reason in response.text) == (status, True), response.text
        assert "\n" not in response.json()["error"]["message"]
    prompt = {"model": TEAM, "prompt": "x", "latentmas": {"conversation": "refused"}}
    response = served.ask("POST", "/v1/completions", prompt, HEADERS["anna"])
    assert (response.status_code, response.json()["error"]["param"]) == (400, "latentmas.conversation")
    unknown = [
        ("GET", "ben", "refused", 404),
        ("DELETE", "ben", "refused", 404),
        ("DELETE", "anna", "none", 404),
        ("DELETE", "anna", "a b", 400),
    ]
    for method, key, name, status in unknown:
        assert served.ask(method, f"/v1/conversations/{name}", headers=HEADERS[key]).status_code == status
    assert served.ask("GET", "/v1/conversations/refused", headers=HEADERS["anna"]).json()["exchanges"] == 2


def test_a_conversation_that_is_too_long_is_a_clients_mistake(served: TeamApp) -> None:
    said = [user("7 " * 50_000), {"role": "assistant", "content": "8"}, user(SAID[1])]
    response = ask(served, body(said, "long"))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded"), response.text
    assert served.ask("GET", "/v1/conversations/long", headers=HEADERS["anna"]).status_code == 404


def test_one_question_of_a_conversation_is_answered_at_a_time(served: TeamApp, monkeypatch: pytest.MonkeyPatch) -> None:
    may_begin = hold_turns(monkeypatch)

    async def both() -> list[int]:
        request = body([user(SAID[0])], "busy")
        asked = [
            asyncio.create_task(served.request("POST", "/v1/chat/completions", request, HEADERS["anna"]))
            for _ in range(2)
        ]
        await asyncio.wait(asked, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        may_begin.set()
        return [response.status_code for response in await asyncio.gather(*asked)]

    assert sorted(served.run(both())) == [200, 409]


def test_metrics_tell_what_is_kept(served: TeamApp) -> None:
    converse(served, "counted", TEAM, 2)
    text = served.endpoint.metrics.text().decode()
    for name in ("conversations", "conversation_bytes", "conversation_hits_total", "conversation_losses_total"):
        (value,) = [line.split()[1] for line in text.splitlines() if line.startswith(f"latentmas_serve_{name} ")]
        assert float(value) > 0, name


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Talk:
    """Turns of conversations of a store, without a team that answers."""

    def __init__(self, served: TeamApp, **limits: Any) -> None:
        self.served, self.clock = served, Clock()
        variant = served.teams.models[TEAM]
        self.store = ConversationStore(
            lambda name: (served.teams.fleet, variant), ConversationLimits(**limits), CollectorRegistry(), self.clock
        )

    async def turn(self, name: str, *said: str) -> int:
        """Ask the next question after these exchanges, all answered with 8; return the tokens that were kept."""
        question = Question(id="q", question="And now?", kind="text", gold=None, record={})
        exchanges = tuple(ChatExchange(one, "8") for one in said)
        asked = ConversationAsked(id=name, key="-", model=TEAM, system="", exchanges=exchanges, question=question)
        kept = self.store.begin(asked)
        try:
            memory, num_kept = await self.store.remember(kept, exchanges)
            assert (0 if memory is None else len(memory.segments)) == len(exchanges)
            return num_kept
        finally:
            self.store.end(kept)


def test_conversations_are_dropped_by_age_number_and_bytes(served: TeamApp) -> None:
    async def talk() -> None:
        talk = Talk(served, ttl_seconds=100.0, max_number=2)
        assert await talk.turn("a", "x") == 0
        one = talk.store.num_bytes
        talk.clock.now = 60.0
        assert await talk.turn("a", "x") > 0
        talk.clock.now = 120.0
        await talk.turn("b", "x")
        talk.clock.now = 161.0  # 101 s after the last turn of a
        assert await talk.turn("b", "x") > 0
        with pytest.raises(ApiError, match="there is no conversation"):
            talk.store.get("a", "-")
        await talk.turn("c", "x")
        await talk.turn("d", "x")
        assert [await kept_of(talk, name) for name in "bcd"] == [False, True, True]
        await talk.store.aclose()
        few = Talk(served, max_bytes=int(one * 1.5))
        await few.turn("a", "x")
        await few.turn("b", "x")
        assert [await kept_of(few, name) for name in "ab"] == [False, True]
        assert few.store.num_bytes <= one * 1.5
        await few.store.aclose()
        assert len(few.store) == 0

    served.run(talk())


async def kept_of(talk: Talk, name: str) -> bool:
    with suppress(ApiError):
        return talk.store.get(name, "-").memory is not None
    return False


def test_a_conversation_without_an_answer_leaves_nothing(served: TeamApp) -> None:
    async def talk() -> int:
        talk = Talk(served)
        await talk.turn("a")
        return len(talk.store)

    assert served.run(talk()) == 0
