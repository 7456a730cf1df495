"""Samples of one question on vLLM: each as if it were alone, with the memory written once but for a last block."""

from dataclasses import replace

from latentmas_ray.seeds import sample_seed
from tests.vllm import inside
from tests.vllm.asked import OwnEngine
from tests.vllm.child import VllmProcess

SAMPLES = 4
BLOCK_TOKENS = 128  # of vLLM's paged cache on a CPU, at most


def test_samples_share_the_blocks_of_memory_and_prompt(own: OwnEngine, vllm: VllmProcess) -> None:
    fields = {"task": "notes", "topology": "hierarchical", "latent_steps": 80, "temperature": 3.0}
    one = own.ask("samples", num_questions=1, **fields)[0]  # type: ignore[arg-type]
    request, memory = one.request, one.request.memory
    assert memory is not None
    sampling = request.sampling
    own_seeds = [replace(sampling, seed=sample_seed(sampling.seed, sample)) for sample in range(SAMPLES)]
    alone = [replace(request, key=f"alone {place}", sampling=one) for place, one in enumerate(own_seeds)]
    group = [replace(one, key=one.key.replace("alone", "group"), group="samples") for one in alone]
    before = vllm.call(inside.write_stats)
    expected = vllm.write(alone)
    between = vllm.call(inside.write_stats)
    written = vllm.write(group)
    after = vllm.call(inside.write_stats)
    for place in range(SAMPLES):
        assert written[f"group {place}"] == expected[f"alone {place}"]
    assert tuple(written["group 0"].token_ids) == one.token_ids
    assert len({tuple(text.token_ids) for text in written.values()}) > 1
    tokens_alone, tokens_together = between.num_tokens - before.num_tokens, after.num_tokens - between.num_tokens
    assert tokens_alone == SAMPLES * memory.num_tokens
    assert memory.num_tokens <= tokens_together <= memory.num_tokens + (SAMPLES - 1) * BLOCK_TOKENS
    # Another question of the same group name, later, shares nothing with it.
    again = vllm.write(group[:1])
    assert again["group 0"] == written["group 0"]
    assert vllm.call(inside.write_stats).num_tokens - after.num_tokens >= memory.num_tokens
