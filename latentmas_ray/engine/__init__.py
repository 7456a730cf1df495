"""One shard of one model in one process: prefill, think, decode, absorb memory, emit memory. No Ray.

`turn` holds the plain data of a turn and imports neither torch nor transformers, so the driver can use it. For the same
reason `Engine` and `TurnRunner` are imported from their own modules.
"""
