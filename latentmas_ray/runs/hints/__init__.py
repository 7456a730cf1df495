"""What a run with hints about its questions gives.

rows     what a row has of its hint
scores   the figures of a run: the average over hints, the best of them, the vote of all answers, and how many leak
figures  computes them
"""
