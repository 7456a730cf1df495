"""Published figures of accelerators and processors, as data: memory, bandwidth, peak FLOP/s and links."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from latentmas_ray.errors import ConfigError
from latentmas_ray.expected import expected_form
from latentmas_ray.paths import expand_home
from latentmas_ray.placement.link_speeds import LinkSpeeds

_GBIT = 1e9 / 8  # bytes
_Speed = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The limits of one GPU, or of the processors of one node. Speeds are peaks, and those of links in one direction.

    `peak_flops` has dense products, without sparsity, by dtype; float32 is that of the units for float32 and not TF32,
    which the project does not switch on.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", allow_inf_nan=False
    )  # for what is read from files

    name: str
    memory_bytes: Annotated[int, Field(gt=0)] | None  # None: the memory of a node differs
    bytes_per_second: _Speed  # of its memory
    peak_flops: Mapping[str, _Speed]
    nvlink: _Speed | None = None
    pcie: _Speed | None = None
    network: _Speed = 100 * _GBIT  # of a node: all its adapters together
    cores: Annotated[int, Field(gt=0)] | None = None  # of a processor, whose figures hold for all its cores together
    source: str
    links: LinkSpeeds | None = None  # as measured; None: they follow from the peaks
    is_measured: bool = False  # what was reached, and no peaks

    def link_speeds(self) -> LinkSpeeds:
        """Return the speed of each link. A copy within a GPU reads and writes, so it has half of the bandwidth."""
        if self.links is not None:
            return self.links
        defaults = LinkSpeeds()
        return replace(
            defaults,
            same_gpu=self.bytes_per_second / 2,
            nvlink=self.nvlink,
            pcie=self.pcie or defaults.pcie,
            network=self.network,
        )

    def of_cores(self, num_cores: float) -> "Hardware":
        """Return the figures of `num_cores` cores of a processor, at most all; a GPU's stay as they are."""
        if self.cores is None or num_cores >= self.cores:
            return self
        part = num_cores / self.cores
        return replace(
            self,
            bytes_per_second=self.bytes_per_second * part,
            peak_flops={dtype: flops * part for dtype, flops in self.peak_flops.items()},
        )


_HARDWARE = TypeAdapter(Hardware)


def _tensor_cores(half: float, single: float) -> dict[str, float]:
    return {"bfloat16": half, "float16": half, "float32": single}


_A100 = Hardware(
    name="a100-80gb",
    memory_bytes=80_000_000_000,
    bytes_per_second=2039e9,
    peak_flops=_tensor_cores(312e12, 19.5e12),
    nvlink=300e9,
    pcie=32e9,
    network=8 * 200 * _GBIT,
    source="NVIDIA A100 Tensor Core GPU data sheet, SXM; network: DGX A100 data sheet, 8 adapters",
)
_H100 = Hardware(
    name="h100",
    memory_bytes=80_000_000_000,
    bytes_per_second=3350e9,
    peak_flops=_tensor_cores(989.5e12, 67e12),
    nvlink=450e9,
    pcie=64e9,
    network=8 * 400 * _GBIT,
    source="NVIDIA H100 Tensor Core GPU data sheet, SXM; network: DGX H100 data sheet, 8 adapters",
)
HARDWARE: Mapping[str, Hardware] = {
    one.name: one
    for one in (
        replace(_A100, name="a100-40gb", memory_bytes=40_000_000_000, bytes_per_second=1555e9),
        _A100,
        _H100,
        replace(
            _H100,
            name="h200",
            memory_bytes=141_000_000_000,
            bytes_per_second=4800e9,
            source="NVIDIA H200 Tensor Core GPU data sheet, SXM; network: DGX H200 data sheet, 8 adapters",
        ),
        Hardware(
            name="l40s",
            memory_bytes=48_000_000_000,
            bytes_per_second=864e9,
            peak_flops=_tensor_cores(362.05e12, 91.6e12),
            pcie=32e9,
            source="NVIDIA L40S data sheet; it has no NVLink",
        ),
        Hardware(
            name="cpu",
            memory_bytes=None,
            bytes_per_second=307.2e9,
            # At 2.0 GHz, per core and cycle: AMX 2048 operations on bfloat16, two AVX-512 units 64 on float32.
            peak_flops={"bfloat16": 229.4e12, "float16": 7.2e12, "float32": 7.2e12},
            cores=56,
            source="Intel Xeon Platinum 8480+: 56 cores at 2.0 GHz, 8 channels of DDR5-4800; Intel 64 and IA-32 "
            "Architectures Optimization Reference Manual, chapters on AVX-512 and AMX",
        ),
    )
}


def hardware_named(name: str) -> Hardware:
    """Return the figures of this name, such as `h100`. Raises ConfigError for an unknown one."""
    found = HARDWARE.get(name.strip().lower())
    if found is None:
        expected = f"its figures are not known; those of {', '.join(HARDWARE)} are, and files end in .json"
        raise ConfigError("hardware", name, expected)
    return found


def hardware_named_or_in(text: str) -> Hardware:
    """Return the figures of this name, or those in the file that `latentmas plan --measure --save` wrote. Raises
    ConfigError for an unknown name, and for a file that cannot be read or has another form."""
    if text.strip().lower() in HARDWARE or not text.lower().endswith(".json"):
        return hardware_named(text)
    try:
        return _HARDWARE.validate_json(Path(expand_home("hardware", text)).read_bytes())
    except OSError as error:
        raise ConfigError("hardware", text, f"the file cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        expected = f"it must be a file of latentmas plan --measure --save: {where or 'JSON'}: {expected_form(first)}"
        raise ConfigError("hardware", text, expected) from None


def hardware_to_json(hardware: Hardware) -> bytes:
    """Return the content of the file from which `hardware_named_or_in` reads the same figures."""
    return _HARDWARE.dump_json(hardware, indent=2) + b"\n"


# GPUs as Ray names them, in the resources of a node. It does not always tell the size of an A100.
_RAY_NAMES = {"A100-40G": "a100-40gb", "A100-80G": "a100-80gb", "A100": "a100-80gb"}


def hardware_of_ray(gpu_name: str) -> Hardware | None:
    """Return the figures of a GPU by the name that Ray gives it, such as `H100`; None if they are not known."""
    return HARDWARE.get(_RAY_NAMES.get(gpu_name.upper(), gpu_name.lower()))


def hardware_of_device(device_name: str, memory_bytes: int) -> Hardware | None:
    """Return the figures of a GPU by the name that CUDA gives it, such as `NVIDIA H100 80GB HBM3`, and its size.

    None if they are not known. Variants for PCIe have less than the published figures here, and are not known.
    """
    words = set(re.split(r"[\s-]+", device_name.lower()))
    if "pcie" in words or "nvl" in words:
        return None
    for one in HARDWARE.values():
        is_size = one.memory_bytes is not None and 0.8 * one.memory_bytes < memory_bytes < 1.2 * one.memory_bytes
        if one.name.partition("-")[0] in words and is_size:
            return one
    return None
