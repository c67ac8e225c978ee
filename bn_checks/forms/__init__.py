"""Right implementations, one module per lesson: what `edits.py` makes its edits of.

A form is written so that each quantity has a name or an operator of its own: an edit
reaches what a line hides in a call. Averaged axes are assigned once, to `axes`.
"""
