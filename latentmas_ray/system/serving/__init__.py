"""Several topologies and methods on the actors of one run, for callers that ask one question at a time."""

from latentmas_ray.system.serving.call_settings import CallSettings
from latentmas_ray.system.serving.exchanges import (
    ChatExchange,
    add_exchange,
    first_exchanges,
    given_first,
    why_not_kept,
)
from latentmas_ray.system.serving.fleet import Fleet, TeamVariant, is_topology_file
from latentmas_ray.system.serving.text_growth import TextGrowth

__all__ = [
    "CallSettings",
    "ChatExchange",
    "Fleet",
    "TeamVariant",
    "TextGrowth",
    "add_exchange",
    "first_exchanges",
    "given_first",
    "is_topology_file",
    "why_not_kept",
]
