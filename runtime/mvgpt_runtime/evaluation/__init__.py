"""Scoring a bundle's answers: how many are right, by type of question.

In the order of the data: cases.py (clips with questions), selection.py (which key frames the video encoder sees),
score.py (asking, comparing, counting), cli.py (`mvgpt eval`). lmms_eval.py is another way in, a plugin for
the tool that runs the published benchmarks.
"""
