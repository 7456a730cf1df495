"""The test segments that are measured at the start of a run."""

import pytest

from latentmas_ray.authentication import RunKey
from latentmas_ray.transport import ObjectStore, Tcp, Transport
from latentmas_ray.transport.links.probe import LinkProbe


@pytest.mark.parametrize("make", [lambda: Tcp(5.0, shares_memory=False), ObjectStore])
def test_a_probe_brings_all_bytes_again_and_again(make: type[Transport]) -> None:
    key = RunKey(b"k" * 32)
    sender, reader = (LinkProbe(make(), key, 1_000_000) for _ in range(2))
    try:
        for value in (7, 9):
            sender._memory.fill_(value)
            reader.receive(sender.send())
            assert bool((reader._memory == value).all())
            assert reader._memory.numel() > 990_000
            reader.release()
            sender.release()
    finally:
        sender.close()
        reader.close()
