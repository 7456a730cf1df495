"""The runtime without models: real actors and the real scheduler, with timers in place of turns."""
