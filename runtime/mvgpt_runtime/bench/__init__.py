"""Measuring a bundle by one protocol on desktops and phones (docs/benchmark-protocol.md).

In the order of the data: results.py (what a measurement is, as JSON), metrics.py (what is computed from it).
"""
