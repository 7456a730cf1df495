"""The event loop of a run: batches, turns, the memory budget, retries. It reaches actors only through the
`Runtime` protocol."""
