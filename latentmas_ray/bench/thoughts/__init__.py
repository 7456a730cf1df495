"""`latentmas bench thoughts`: where a model's thoughts are among its input embeddings, and how they move."""
