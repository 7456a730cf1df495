"""Which address others reach this process at."""

LOOPBACK = "127.0.0.1"


def own_host() -> str:
    """The address of this node as Ray knows it; without Ray, one that only this machine's processes reach."""
    import ray  # takes a second, and only a transport between actors needs it

    if not ray.is_initialized():
        return LOOPBACK
    own = ray.get_runtime_context().get_node_id()
    return next((str(node["NodeManagerAddress"]) for node in ray.nodes() if node["NodeID"] == own), LOOPBACK)
