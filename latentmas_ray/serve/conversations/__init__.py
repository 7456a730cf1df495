"""Conversations whose working memory the endpoint keeps between turns."""
