"""The engine beside the loop that one would write first."""
