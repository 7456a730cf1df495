"""Grading: what an answer says, and whether it is right. One module for each kind of answer."""
