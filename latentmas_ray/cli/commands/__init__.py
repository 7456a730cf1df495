"""The commands of `latentmas`: each file reads the flags of one, calls the Python API and shows the result."""
