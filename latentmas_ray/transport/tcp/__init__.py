"""Transport over TCP between nodes, through shared memory within a node."""
