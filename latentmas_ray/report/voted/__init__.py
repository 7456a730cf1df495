"""Votes over finished runs, or over answers from elsewhere: `latentmas vote`.

ballots.py    questions with the votes of all voters on each
run_votes.py  ballots from the output folders of runs
vote_file.py  ballots from a file with one answer a line
evaluate.py   every rule on them: accuracies, paired differences, estimates, agreement
write.py      an output folder with the answers of one rule, as a run would have written it
"""
