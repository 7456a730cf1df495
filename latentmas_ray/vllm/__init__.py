"""The agents that write text, on vLLM: working memory is copied into its paged cache."""
