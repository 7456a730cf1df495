"""One process with vLLM for all tests, and our own engine beside it in the process of the tests."""

from collections.abc import Iterator

import pytest

from tests.vllm.asked import OwnEngine
from tests.vllm.child import VllmProcess

# Small blocks, few of them, and small steps: prompts are read in chunks, and texts that grow do not all fit at once.
BLOCK_SIZE = 32
NUM_BLOCKS = 300
BYTES_PER_TOKEN = 4096  # of the embedded model in float32
ARGUMENTS = {
    "model": "tiny",
    "dtype": "float32",
    "max_running": 32,
    "kv_cache_bytes": NUM_BLOCKS * BLOCK_SIZE * BYTES_PER_TOKEN,
    "takes_inputs": True,
    "block_size": BLOCK_SIZE,
    "max_num_batched_tokens": 160,
}


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> OwnEngine:
    return OwnEngine(tmp_path_factory.mktemp("realign"))


@pytest.fixture(scope="session")
def vllm() -> Iterator[VllmProcess]:
    with VllmProcess(**ARGUMENTS) as process:
        yield process
