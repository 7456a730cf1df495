"""Codecs on a CUDA device: what was coded there can be read here, and the other way round."""

import pytest
import torch

from latentmas_ray.memory.codec import CODECS, CodecName, coded_bytes, decode_kv, encode_kv, relative_error
from tests.cases.memory import SPEC, reshaped

LENGTHS = [300, 0, 1, 40]
LARGEST_ERROR = {"none": 0, "bf16": 0.003, "int8": 0.01, "int4": 0.12}
DEVICE = "cuda"


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_body_means_the_same_on_both_devices(codec: CodecName, dtype: str) -> None:
    spec = reshaped(SPEC, num_kv_heads=8, head_dim=128, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    kv = torch.randn(2, 2, 8, sum(LENGTHS), 128, generator=generator).to(spec.torch_dtype)
    for body in (encode_kv(kv.to(DEVICE), LENGTHS, codec), encode_kv(kv, LENGTHS, codec).to(DEVICE)):
        assert body.device.type == DEVICE
        assert body.nbytes == coded_bytes(LENGTHS, codec, spec)
        there, here = decode_kv(body, LENGTHS, codec, spec), decode_kv(body.cpu(), LENGTHS, codec, spec)
        assert there.device.type == DEVICE
        assert torch.equal(there.cpu(), here)
        assert relative_error(kv, here) <= LARGEST_ERROR[codec]
