"""Trains the embedded model to read its own thoughts: see `docs/training_protocol.md`.

`documents.py` makes teams of thinking agents and questions to them, `rows.py` packs them, `rollout.py` computes their
thoughts, `losses.py` has what is minimised, `train.py` the training, `reward.py` the training by grades, `judge.py` the
runs through the project's runtime, and `study.py` the cells and tables.
"""
