"""Transport through memory that the processes of one node share."""
