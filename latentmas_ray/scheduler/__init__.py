"""The event loop of a run: batches, turns, the memory budget, retries. It knows actors only by the `Runtime`
protocol."""
