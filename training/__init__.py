"""Trains the embedded default `tiny` on drawn clips (docs/training.md). Not part of the package that is installed.

In the order of the data: batches.py (clips, labels and questions as arrays), scan.py and network.py (the model's
networks over a batch, with gradients), stages.py (what each stage of training optimises), train.py (the loop).
"""
