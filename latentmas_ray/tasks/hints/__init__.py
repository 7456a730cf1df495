"""Hints about a question, which an abstraction agent proposes and a solver reads: see docs/abstractions.md.

copies        the copies of a question, one for each of its hints
leaks         whether a hint contains the gold
number_words  numbers that a text writes as words
"""
