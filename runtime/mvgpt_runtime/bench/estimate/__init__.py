"""A roofline: what a bundle computes and reads, against what a device can, before anything runs (docs/estimate.md).

In the order of the data: counts.py (operations and bytes of a call), devices.py and phones.json (rates), roofline.py
(the least time of every stage and question), show.py (a table).
"""
