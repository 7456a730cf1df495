"""Several answers to one question, and the one that is made of them.

votes     what stands in a row: the votes and the decision
decide    decides a question, or all questions of a run
accuracies  the accuracies of answering agents, from a file
describe  votes and decisions in words
figures   what a run's summary says about its votes
"""
