"""Results of benchmarks → one page, or a table for a README.

In the order of the data: words.py (numbers and strangers' names as text), facts.py (what a result says of itself, and
what keeps results from being compared), figures.py (which figures, against which), svg.py and charts.py, page.py with
report.html.j2, markdown.py.
"""
