"""The engine against a straightforward loop."""
