"""The form of requests, responses and errors: OpenAI's, with our own fields under `latentmas`."""
