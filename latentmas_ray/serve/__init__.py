"""Teams of agents behind an OpenAI-compatible endpoint. FastAPI and uvicorn are imported only here (extra `serve`)."""
