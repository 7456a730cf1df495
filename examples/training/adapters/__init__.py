"""Trained maps of thoughts between two models that stay as they are: `python -m examples.training.adapters FOLDER`.

`pairs.py` makes what maps are trained on, `fit.py` trains them, `judge.py` has teams of both models answer with them,
`cells.py` and `tables.py` are the study, and `files.py` writes the maps for `--translation`.
"""
