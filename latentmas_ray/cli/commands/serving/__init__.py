"""Commands that answer programs: `latentmas serve` and `latentmas mcp`."""
