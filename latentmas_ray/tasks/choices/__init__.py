"""Multiple-choice records as published benchmarks write them: options in fields of their own, golds of any form.

`fields.py` has the names of fields, `options.py` finds the options, `forms.py` reads one field, and `order.py` orders
options whose record does not. `golds.py` decides for all records together which option each gold means, and `shown.py`
puts the options into the question's text. `images.py` finds images, which are refused.
"""
