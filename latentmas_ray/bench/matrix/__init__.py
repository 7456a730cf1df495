"""The bandwidth of a whole cluster: every pair of nodes and GPUs, many senders at once, each against its link."""
