"""What commands show: tables and text of results on stdout, progress of a run on stderr."""
