"""The routes of the endpoint, one file for each kind."""
