"""Several memory controls of one run: their names and folders, what memory is worth, and which answers change.

names     which controls run together, and the folder of each
gains     system gain, pairing gain and others: what a run with matched memory gains over its controls
churn     how many answers change between two runs
adoption  how often an answer follows from what one agent was told wrongly
summary   the summary over all controls, and its file
"""
