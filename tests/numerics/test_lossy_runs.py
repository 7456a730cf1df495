"""What a codec loses stands in the results."""

import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.config import CodecName
from latentmas_ray.runs.results import Answer


def answer(codec: CodecName) -> Answer:
    with LatentMAS(
        model="tiny", runtime="local", codec=codec, latent_steps=4, max_new_tokens=8, temperature=0.0, dtype="float32"
    ) as mas:
        return next(iter(mas.run(["How many legs do seven spiders have?"])))


@pytest.fixture(scope="module")
def exact() -> Answer:
    return answer("none")


@pytest.mark.parametrize(("codec", "saving", "least", "most"), [("bf16", 1.9, 1e-4, 0.01), ("int8", 3, 1e-3, 0.05)])
def test_a_runs_transfers_tell_codec_bytes_and_error(
    exact: Answer, codec: CodecName, saving: float, least: float, most: float
) -> None:
    lossy = answer(codec)
    assert [(t.codec, t.relative_error) for t in exact.transfers] == [("none", 0.0)] * len(exact.transfers)
    for ours, theirs in zip(lossy.transfers, exact.transfers, strict=True):
        assert (ours.source, ours.reader, ours.codec) == (theirs.source, theirs.reader, codec)
        assert least < ours.relative_error < most
        assert ours.num_bytes * saving < theirs.num_bytes
