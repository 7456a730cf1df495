"""Serves teams of agents behind an API of OpenAI's form."""
