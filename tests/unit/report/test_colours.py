"""The report's colours: each has one meaning, is visible, and is distinguishable also for colour-blind readers."""

import re
from functools import cache
from importlib.resources import files
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from latentmas_ray.report.html.figures import NUM_AGENT_COLOURS
from latentmas_ray.report.html.time import PHASES

PALETTES = ("run", "phase", "agent")
SCHEMES = ("light", "dark")
BACKGROUNDS = ("paper", "raised", "faint")
# How colours look without one kind of cone (Machado, Oliveira and Fernandes 2009, severity 1), in linear RGB.
VISIONS = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# From linear RGB to the cones' answers, and from their cube roots to Oklab (Ottosson 2020).
CONES = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
OKLAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip
APART = 0.08  # in Oklab; 0.02 is about the least that can be seen


@cache
def style() -> str:
    return files("latentmas_ray.report").joinpath("templates", "report.css").read_text(encoding="utf-8")


@cache
def colours() -> dict[str, dict[str, str]]:
    """Scheme -> name -> #rrggbb, of all colours."""
    found = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", style())
    names = [name for name, _, _ in found]
    assert len(names) == len(set(names)), "each colour is defined once"
    return {scheme: {name: pair[place] for name, *pair in found} for place, scheme in enumerate(SCHEMES)}


def palette(kind: str, scheme: str) -> dict[str, str]:
    return {name: colour for name, colour in colours()[scheme].items() if name.startswith(f"{kind}-")}


def linear(colour: str) -> NDArray[np.float64]:
    channels = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """By WCAG 2: from 1 to 21."""
    low, high = sorted(float(linear(colour) @ (0.2126, 0.7152, 0.0722)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def distance(one: str, other: str, vision: str) -> float:
    first, second = (
        OKLAB @ np.cbrt(CONES @ np.clip(VISIONS[vision] @ linear(colour), 0, 1)) for colour in (one, other)
    )
    return float(np.linalg.norm(first - second))


def test_every_run_phase_and_agent_has_a_colour() -> None:
    for scheme in SCHEMES:
        kinds = ("single", "text", "latent", "control", "vote")
        assert set(palette("run", scheme)) == {f"run-{kind}" for kind in kinds}
        assert set(palette("phase", scheme)) == {f"phase-{phase}" for phase in PHASES}
        assert set(palette("agent", scheme)) == {f"agent-{index}" for index in range(NUM_AGENT_COLOURS)}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_colour_means_one_thing(scheme: str) -> None:
    for kind in PALETTES:
        own = palette(kind, scheme)
        others = {name: colour for name, colour in colours()[scheme].items() if name not in own}
        assert len(set(own.values())) == len(own)
        assert not set(own.values()) & set(others.values())
        for (name, colour), (other, near) in ((one, two) for one in own.items() for two in others.items()):
            assert distance(colour, near, "usual") > 0.03, f"{name} looks like {other}"


def test_a_colour_is_used_only_for_what_its_name_says() -> None:
    uses = re.findall(r"([^{}]*)\{([^{}]*)\}", style().split("color-scheme: dark; }", 1)[1])
    found = [
        (selector.strip(), name)
        for selector, rules in uses
        for name in re.findall(rf"var\(--((?:{'|'.join(PALETTES)})-[\w-]+)\)", rules)
    ]
    assert sorted(name for _, name in found) == sorted(name for kind in PALETTES for name in palette(kind, "light")), (
        "each once: where its class has it"
    )
    for selector, name in found:
        assert selector == f".{name}" or selector == f".{name.partition('-')[2]}"


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_colours_contrast_with_their_background(scheme: str, background: str) -> None:
    behind = colours()[scheme][background]
    for kind in PALETTES:
        for name, colour in palette(kind, scheme).items():
            assert contrast(colour, behind) >= 3, name
    for name, least in (("ink", 7.0), ("muted", 4.5), ("alarm", 3.0)):
        assert contrast(colours()[scheme][name], behind) >= least, name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_labels_in_a_runs_colour_are_readable(scheme: str) -> None:
    for name, colour in palette("run", scheme).items():
        assert contrast(colour, colours()[scheme]["paper"]) >= 4.5, name


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", PALETTES)
def test_colours_of_a_palette_are_distinguishable(kind: str, scheme: str, vision: str) -> None:
    for (name, one), (other, two) in combinations(palette(kind, scheme).items(), 2):
        assert distance(one, two, vision) > APART, f"{name} and {other}"
