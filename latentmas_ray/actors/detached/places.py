"""The placement groups of a run whose actors outlive its driver: found by their names, since no actor may know them."""

import ray
from ray.util import placement_group_table
from ray.util.placement_group import PlacementGroup, remove_placement_group

from latentmas_ray.actors.errors import ignoring_dead


def group_suffix(run: str) -> str:
    """Return the end of the names of a run's placement groups."""
    return f", run {run}"


def remove_groups(run: str) -> None:
    """Remove the placement groups of a run. A driver may have been killed while it waited for them: they would get
    their places once those are free, and no driver would give them back."""
    with ignoring_dead("placement groups were not removed"):
        for group_id, group in placement_group_table().items():
            if group["state"] != "REMOVED" and group["name"].endswith(group_suffix(run)):
                remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group_id))))
