"""Serves teams over HTTP: an OpenAI-compatible endpoint and a live page."""
