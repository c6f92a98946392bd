"""Measuring a bundle by one protocol on desktops and phones (docs/benchmark-protocol.md).

In the order of the data: machine.py (facts of this machine), measure.py (the steps → a result), results.py (what a
result is, as JSON), metrics.py (what is computed from it), summary.py (in words), cli.py (`mvgpt bench`).
On a phone, in place of the first two: launch.py (what its app is told and answers), devices/ (reaching one), remote.py.
"""
