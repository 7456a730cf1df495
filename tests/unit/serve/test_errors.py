"""Every error of the package has a status, and a body in OpenAI's form."""

import inspect
import pickle

import pytest

from latentmas_ray import errors
from latentmas_ray.serve.api.errors import ApiError, reason_for_log, timed_out, translate, unknown_model

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.LatentMASError) and kind.__module__ == errors.__name__
]
STATUS: dict[type[BaseException], int] = {
    errors.LatentMASError: 500,
    errors.InputError: 400,
    errors.ConfigError: 400,
    errors.TopologyError: 400,
    errors.TaskError: 400,
    errors.ModelError: 400,
    errors.MemoryInputError: 400,
    errors.JournalError: 500,  # of no request
    errors.SegmentError: 500,
    errors.WireError: 500,
    errors.IncompatibleMemoryError: 500,
    errors.RunError: 500,
    errors.QuestionsFailedError: 500,
    errors.ClusterError: 503,
    errors.ActorError: 503,
    errors.LostActorError: 503,
    errors.ShardError: 503,
    errors.ContextLengthError: 400,
    errors.CacheError: 503,
    errors.TransferError: 503,
    errors.LinkError: 503,
    errors.SandboxError: 500,
    errors.TurnError: 500,
    errors.QuestionsTooLongError: 400,
    errors.TurnLostError: 503,
}


def made(kind: type[BaseException], why: str = "why") -> BaseException:
    if issubclass(kind, errors.InputError):
        return kind("field", "value", "it must be right")
    if kind is errors.QuestionsTooLongError:
        return kind("judger", {"q": "700 prompt tokens need 701 positions, model tiny has 512: use a shorter prompt"})
    if kind is errors.QuestionsFailedError:
        return kind((type("F", (), {"id": "q", "agent": "a", "error": why}),), 1)
    return kind(why)


def test_every_kind_has_a_status_here() -> None:
    assert set(KINDS) == set(STATUS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_status_of_every_kind(kind: type[BaseException]) -> None:
    error = translate(made(kind))
    assert error.status == STATUS[kind]
    body = error.body["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert body["message"]
    assert ("Retry-After" in error.headers) == (error.status == 503)


def test_a_prompt_that_is_too_long_has_both_numbers() -> None:
    error = translate(made(errors.QuestionsTooLongError))
    assert (error.status, error.param, error.code) == (400, "messages", "context_length_exceeded")
    assert "701" in error.message
    assert "512" in error.message


@pytest.mark.parametrize(
    ("field", "param"),
    [("max_new_tokens", "max_tokens"), ("temperature", "temperature"), ("latent_steps", "latentmas.latent_steps")],
)
def test_a_runs_field_is_named_as_in_the_request(field: str, param: str) -> None:
    assert translate(errors.ConfigError(field, 1, "it must be right")).param == param


def test_a_runs_message_has_the_words_of_the_request() -> None:
    error = translate(errors.ConfigError("samples", 3, "at temperature 0 all of them are the same; use samples 1"))
    assert error.param == "n"
    assert error.message == "n: got '3'; at temperature 0 all of them are the same; use n 1"
    memory = translate(errors.ConfigError("memory", "none", "method text hands over no memory; use matched"))
    assert memory.message == "latentmas.memory: got 'none'; method text hands over no memory; use matched"


def test_an_unknown_error_tells_nothing_of_its_inside() -> None:
    error = translate(KeyError("a secret prompt"))
    assert (error.status, error.type) == (500, "server_error")
    assert "secret" not in error.message


def test_an_error_is_its_own_translation_and_can_be_pickled() -> None:
    error = ApiError(429, "slow down", "n", "rate_limit_exceeded", retry_after=1.2)
    copied = pickle.loads(pickle.dumps(error))
    assert translate(copied) is copied
    assert (copied.body, copied.headers) == (error.body, {"Retry-After": "2"})


def test_an_unknown_model_names_those_that_are_served() -> None:
    error = unknown_model("gpt", ["latentmas/sequential"])
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert "latentmas/sequential" in error.message
    assert timed_out(2.5).status == 504


def test_a_client_never_reads_where_a_model_is() -> None:
    """A chat template may refuse a prompt, in the name of the model's folder."""
    expected = "its chat template must accept the prompt: no such role"
    found = translate(errors.ModelError("model", "/home/ann/secret/Smol-135M/", expected))
    assert (found.status, found.param) == (400, "messages")
    assert found.message == f"model: got 'Smol-135M'; {expected}"
    assert translate(errors.ModelError("model", "org/Smol-135M", expected)).message == found.message


WITHIN = "actor 7f3a on node 10.1.2.3 (gpu-node-4) died; see /tmp/ray/session_1/logs/worker.err"
OF_THE_TEAM = [kind for kind in KINDS if STATUS[kind] >= 500 and kind is not errors.JournalError]


@pytest.mark.parametrize("kind", OF_THE_TEAM)
def test_what_fails_within_is_named_in_the_log_and_not_to_the_client(kind: type[BaseException]) -> None:
    error = made(kind, WITHIN)
    message = translate(error).message
    assert "X-Request-Id" in message
    assert not any(word in message for word in ("7f3a", "10.1.2.3", "gpu-node-4", "/tmp", "died"))
    logged = reason_for_log(error)
    assert logged.startswith(kind.__name__)
    assert WITHIN in logged


def test_the_log_has_no_text_of_a_request() -> None:
    secret = "the secret question"
    assert reason_for_log(KeyError(secret)) == "KeyError"
    assert reason_for_log(errors.TaskError("question", secret, "it must be short")) == "TaskError"
    assert secret not in reason_for_log(errors.TurnError(f"judger cannot read {secret!r}"))


@pytest.mark.parametrize(
    "error",
    [
        errors.TopologyError("/srv/ann/team.yaml:4: agents.b.prompt", "notes", "the question does not have it"),
        errors.ContextLengthError("9 prompt tokens need 9 positions, model /srv/ann/smol has 8: use a shorter prompt"),
        errors.ConfigError("latent_steps", 9, "agent b needs 9 positions, model ~/ann/smol has 8"),
        errors.ConfigError("decide_accuracies", "/srv/ann/accuracies.yaml", "it cannot be read"),
    ],
)
def test_no_refusal_says_where_a_file_is(error: BaseException) -> None:
    message = translate(error).message
    assert "ann/" not in message
    assert any(name in message for name in ("team.yaml:4", "model smol has 8", "accuracies.yaml"))


def test_a_prompt_that_grows_too_long_is_told_in_the_words_of_the_request() -> None:
    why = "memory, prompt and thoughts need 9 positions, model tiny has 8: use a smaller max_new_tokens"
    assert translate(errors.ContextLengthError(why)).message.endswith("use a smaller max_tokens")
