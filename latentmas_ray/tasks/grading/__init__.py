"""Grading: reads the prediction from an answer and compares it with the gold.

`grade.py` is the entry: `answer_form`, `extract`, `grade`, `check_graders`. The kinds of answers (`AnswerKind`):

number  number.py   a number, read exactly and compared by value: 18.00 = 18, 1/2 = 0.5
choice  choice.py   an option of a multiple-choice question, compared by its letter
text    text.py     the final line, compared without case, white space and closing punctuation
math    latex.py    a LaTeX expression, compared by value with `math-verify` (in a sandbox)
code    code.py     a Python program, right if it passes the question's tests (in a sandbox)

`answer_text.py` removes thinking blocks, boxes and LaTeX markup for all kinds. `code_record.py` checks the record of a
question of kind code.
"""
