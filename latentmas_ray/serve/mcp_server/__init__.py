"""A team as a tool of the Model Context Protocol. The package `mcp` is imported only here (extra `mcp`)."""
