"""One shard of one model in one process: prefill, think, decode, absorb memory, emit memory. No Ray.

`turn` holds the plain data of a turn and imports neither torch nor transformers, so the driver may use it;
`Engine` and `TurnRunner` are imported from their own modules for the same reason.
"""
