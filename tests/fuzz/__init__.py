"""Fuzzing of everything that reads files made elsewhere. `python -m tests.fuzz` is the long run.

mutate.py    changes to bytes and to JSON
formats.py   changes to NumPy files and tars
kinds.py     the readers that are fuzzed, one class for each kind of input
worker.py    runs cases in a process of its own, under limits, and watches which files they touch
cases.py     starts workers and collects their results
coverage.py  coverage-guided cases, for the readers written in Python
"""
