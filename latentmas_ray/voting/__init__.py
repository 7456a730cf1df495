"""Decides together: one answer from the votes of several agents (arXiv 2510.01499).

votes.py        the votes on one question
rules.py        the decision of one question by a rule: majority, OW, SP, ISP and votes with estimated weights
agreement.py    how often agents agree
correlation.py  how much agreement accuracies explain, and the effective number of votes
accuracies.py   the agents' accuracies: from reference answers, or from the votes alone (OW-L, OW-I)
dawid_skene.py  the same by expectation maximisation
exact.py        the exact accuracy of every rule, by enumeration
answers.py      which open answers are one vote

Labels are any texts; agents are names. Pure Python: a decision needs no library.
"""
