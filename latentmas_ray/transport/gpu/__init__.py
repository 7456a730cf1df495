"""Transports from GPU to GPU, and between processes by torch.distributed."""
