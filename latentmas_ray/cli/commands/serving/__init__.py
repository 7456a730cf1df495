"""Commands around an endpoint."""
