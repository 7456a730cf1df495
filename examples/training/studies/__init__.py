"""What training studies share: cells that run on Ray and are not run twice, their folder, tables and the command line.

`cell.py` has a study's parts, `run.py` runs them, `folder.py` keeps what they gave, `intervals.py` and `table.py` show
it, and `command.py` makes a command line of a `Study`.
"""
