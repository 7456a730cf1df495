"""One transport per kind of link."""
