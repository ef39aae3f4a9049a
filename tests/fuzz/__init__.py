"""Mutated inputs for everything that reads files made elsewhere. `python -m tests.fuzz` is the long run.

mutate.py    how inputs are changed
kinds.py     what reads them, one class a kind
worker.py    runs cases in a process of its own, under limits, and watches what they touch
cases.py     starts workers and gathers what they tell
coverage.py  the same by coverage, for what is Python
"""
