"""From a prompt that was read to its texts."""
