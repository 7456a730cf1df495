"""Asks Ray's autoscaler for the places that a run would use."""

import ray

from latentmas_ray.actors.errors import cluster_errors
from latentmas_ray.placement.resources import ActorResources


def ask_autoscaler(count: int, share: ActorResources) -> None:
    """Ask for nodes on which `count` actors fit, those that run included; 0 takes the request back.

    The last request of all programs on the cluster counts. Without an autoscaler it has no effect. Raises ClusterError.
    """
    from ray.autoscaler.sdk import request_resources

    bundle = {"GPU": share.num_gpus, "CPU": share.num_cpus}
    bundle = {kind: amount for kind, amount in bundle.items() if amount}
    if ray.is_initialized():
        with cluster_errors("the autoscaler was not asked"):
            request_resources(bundles=[bundle] * count if bundle else [])
