"""vLLM is silent where it ignores memory. Each of these shows the wrong answers, and that a guard prevents them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latentmas_ray.writing.text_engine import TextRequest
from tests.vllm import inside
from tests.vllm.asked import Asked, OwnEngine, num_equal
from tests.vllm.child import VllmProcess
from tests.vllm.conftest import ARGUMENTS, BLOCK_SIZE, NUM_BLOCKS


@pytest.fixture(scope="module")
def asked(own: OwnEngine) -> list[Asked]:
    return own.ask("guards", "notes", 4, topology="sequential", latent_steps=20)


@pytest.fixture(scope="module")
def requests(asked: list[Asked]) -> list[TextRequest]:
    return [one.request for one in asked]


def test_the_prefix_cache_knows_one_memory_from_another(
    asked: list[Asked], requests: list[TextRequest], vllm: VllmProcess
) -> None:
    """All memories have the same placeholder tokens, by which vLLM knows its blocks."""
    assert num_equal(asked, vllm.call(inside.write_with_one_salt, requests)) < len(asked)
    for _ in range(2):
        assert num_equal(asked, vllm.write(requests)) == len(asked)


def test_memory_that_vllm_skips_is_an_error(asked: list[Asked], requests: list[TextRequest], vllm: VllmProcess) -> None:
    unguarded = vllm.call(inside.write_skipping_the_cache, requests, False)
    assert num_equal(asked, unguarded) == 0
    assert {one.end for one in unguarded.values()} == {"stop"}
    guarded = vllm.call(inside.write_skipping_the_cache, requests, True)
    assert {(one.end, *one.token_ids) for one in guarded.values()} == {("error",)}
    assert all("took 0 of its memory's" in one.error for one in guarded.values())
    assert num_equal(asked, vllm.write(requests)) == len(asked)


def test_a_memory_that_cannot_be_loaded_fails_alone(
    asked: list[Asked], requests: list[TextRequest], vllm: VllmProcess
) -> None:
    """Tensors without data stand for a device that fails."""
    memory = requests[1].memory
    assert memory is not None
    parts = tuple(replace(part, kv_LCHTD=part.kv_LCHTD.to("meta")) for part in memory.parts)
    broken = replace(requests[1], memory=replace(memory, parts=parts))
    written = vllm.write([requests[0], broken, *requests[2:]])
    failed = written[broken.key]
    assert (failed.end, failed.token_ids) == ("error", [])
    assert failed.error.startswith("its memory could not be loaded: ")
    assert num_equal(asked, written) == len(asked) - 1
    unguarded = vllm.call(inside.write_ignoring_load_errors, [broken])[broken.key]
    assert unguarded.end == "stop"
    assert unguarded.token_ids != list(asked[1].token_ids)
    assert num_equal(asked, vllm.write(requests)) == len(asked)


def test_a_memory_that_was_released_too_early_is_an_error(
    asked: list[Asked], requests: list[TextRequest], vllm: VllmProcess
) -> None:
    written = vllm.call(inside.write_after_release, requests, requests[2].key)
    assert (written[requests[2].key].end, written[requests[2].key].token_ids) == ("error", [])
    assert written[requests[2].key].error == "its memory is not registered"
    assert num_equal(asked, written) == len(asked) - 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda kv: kv[:-1], "memory has 3 layers × 2 tensors of head dim 64, the model 4 × 2 of 64"),
        (lambda kv: kv[:, :, :1], r"memory has heads \[0\] in slots 0 to \d+, the model 2"),
        (lambda kv: kv[:, :, :, 1:], r"memory is missing or duplicate: slot \d+ is followed by a part from \d+ on"),
        (lambda kv: kv.to(torch.bfloat16), "memory is torch.bfloat16, the model torch.float32"),
    ],
    ids=["layers", "heads", "tokens", "dtype"],
)
def test_memory_of_another_shape_is_refused(
    change: Callable[[Tensor], Tensor], said: str, requests: list[TextRequest], vllm: VllmProcess
) -> None:
    memory = requests[0].memory
    assert memory is not None
    parts = tuple(replace(part, kv_LCHTD=change(part.kv_LCHTD).clone()) for part in memory.parts)
    with pytest.raises(ValueError, match=said):
        vllm.write([replace(requests[0], memory=replace(memory, parts=parts))])
    assert vllm.call(inside.num_held) == (0, 0)


def test_inputs_are_refused_without_the_engine_that_takes_them(asked: list[Asked], vllm: VllmProcess) -> None:
    request = replace(asked[0].request, memory=None, inputs=asked[0].inputs)
    with pytest.raises(ValueError, match="takes memory as KV alone, not as recompute inputs: use transfer kv"):
        vllm.call(inside.write_without_inputs, request)


def test_an_engine_that_dies_raises_at_every_call(requests: list[TextRequest], vllm: VllmProcess) -> None:
    assert vllm.call(inside.write_on_a_dead_engine, requests[0]) == [
        "ActorError: vLLM cannot continue: RuntimeError: the device is gone",
        "ActorError: the vLLM engine of model tiny has ended",
        "ActorError: the vLLM engine of model tiny has ended",
    ]


def test_questions_are_aborted_alone(asked: list[Asked], requests: list[TextRequest], vllm: VllmProcess) -> None:
    written = vllm.call(inside.write_and_abort, requests, requests[0].key)
    assert written[requests[0].key].end is None
    assert num_equal(asked[1:], written) == len(asked) - 1
    assert vllm.call(inside.num_held) == (0, 0)


def check_probe_errors(said: dict[str, str]) -> None:
    """Only the right memory is taken."""
    assert said.pop("right") == ""
    assert "vLLM computes other logits" in said.pop("another model")
    assert len(said) == 6
    assert {name for name, error in said.items() if "vLLM reads memory otherwise" not in error} == set()


def test_the_check_at_load_finds_another_rope_and_another_model(vllm: VllmProcess) -> None:
    check_probe_errors(vllm.call(inside.probe_errors))


@pytest.mark.slow  # one more process; the test before this one does the same in float32, with a smaller tolerance
def test_the_check_at_load_tells_wrong_memory_from_rounding(tmp_path: Path) -> None:
    """In bfloat16 the tolerance is wide. What passes it is good memory: most answers are those of our own engine, but
    for near ties."""
    own = OwnEngine(tmp_path, dtype="bfloat16")
    asked = own.ask("rounded", "notes", 12, topology="sequential", latent_steps=20, temperature=0)
    with VllmProcess(**{**ARGUMENTS, "dtype": "bfloat16"}) as process:
        check_probe_errors(process.call(inside.probe_errors))
        assert num_equal(asked, process.write([one.request for one in asked])) >= 10


def test_the_check_at_load_finds_other_layers(vllm: VllmProcess) -> None:
    right, fewer, other = vllm.call(inside.layer_errors)
    assert right == ""
    assert "vLLM caches 4 layers, not 3" in fewer
    assert "in vLLM layer 0 has head dim 64, not 32" in other


def test_fields_that_another_vllm_lacks_are_one_line(vllm: VllmProcess) -> None:
    said = vllm.call(inside.errors_of_another_vllm)
    for line, name in zip(said, ("compilation_config", "num_kv_heads"), strict=True):
        assert f"is not supported ('types.SimpleNamespace' object has no attribute '{name}'): pip install" in line


def test_a_configuration_that_vllm_refuses_is_told_with_its_cause(vllm: VllmProcess) -> None:
    said = vllm.call(inside.error_of_bad_arguments)
    assert said.startswith("model: got 'tiny'; vLLM must load it: User-specified max_model_len (1000000000) is greater")
    assert "validation error" not in said
    assert "\n" not in said


def test_a_cache_that_bounds_the_positions_is_named(vllm: VllmProcess) -> None:
    num_positions, bound = vllm.call(inside.bounds)
    assert num_positions == (NUM_BLOCKS - 1) * BLOCK_SIZE  # vLLM keeps one block for itself
    assert bound.startswith(
        f"vLLM's cache of 39.3 MB holds {num_positions} (the model has 32768): use a shorter prompt"
    )


def test_a_question_waits_until_vllm_has_blocks_for_it(requests: list[TextRequest], vllm: VllmProcess) -> None:
    """With memory and without: until then its time does not count. The cache and a step are too small for all."""
    copies = [replace(request, key=f"{number} {request.key}") for request in requests for number in range(4)]
    bare = [replace(request, key=f"bare {request.key}", memory=None) for request in copies]
    started, waiting, ended = vllm.call(inside.queued_while_writing, [*copies, *bare])
    assert (started, ended) == (8 * len(requests), 0)
    assert 0 < waiting < started
    assert vllm.call(inside.num_held) == (0, 0)
