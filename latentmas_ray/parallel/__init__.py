"""Processes that compute or move memory together: the ranks of a replica, and groups in torch.distributed."""
