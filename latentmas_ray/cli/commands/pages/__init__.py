"""Commands that write pages about runs: `report` and `timeline`."""
