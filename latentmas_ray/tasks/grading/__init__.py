"""Grading: reads the prediction from an answer and compares it with the gold.

`grade.py` is the entry: `answer_form`, `extract`, `grade`, `check_graders`. The kinds of answers (`AnswerKind`):

number  number.py   a number, read exactly and compared by value: 18.00 = 18, 1/2 = 0.5
choice  choice.py   an option of a multiple-choice question, compared by its letter
text    text.py     the final line, compared without case, white space and closing punctuation
math    latex.py    a LaTeX expression, compared by value with `math-verify` (in a sandbox)
code    code.py     a Python program, right if it passes the question's tests (in a sandbox)

For all kinds, `thinking.py` finds blocks of thinking, `final_part.py` the part that states the final answer, and
`answer_text.py` boxes and LaTeX; `languages.py` has the words of statements in other languages. `code_blocks.py` finds
the program in an answer, and `code_record.py` checks the record of a question of kind code.
"""
