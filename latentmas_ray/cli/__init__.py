"""The command line: few flags -> config -> system. A thin skin over the Python API."""
