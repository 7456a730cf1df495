"""Which requests are taken: keys, rates, sizes, and the queue in front of the team."""
