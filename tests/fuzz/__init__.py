"""Damaged and hostile input, made by the thousand: a corpus (corpus.py), changes to it (mutate.py), what reads it
(targets.py), and processes that are watched while they do (watch.py). `python -m tests.fuzz --help`."""
