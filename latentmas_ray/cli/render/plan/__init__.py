"""Plans as tables and as JSON."""
