"""RLAD's two-player training (arXiv 2510.02263) at the embedded model's scale: see `docs/training_rlad.md`.

`task/` has the puzzles, the teacher of the warm start and the prompts, `actors/` what runs in Ray actors. `policy.py`
is the two models, `losses.py` the formulas, `rewards.py` applies them to texts. `warm_start.py` comes first, `game.py`
plays the alternation, `judge.py` judges, `study.py` has the cells and `tables.py` shows what they gave.
"""
