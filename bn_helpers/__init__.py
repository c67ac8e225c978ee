"""Reference implementations of the course, with its data and figures.

Import what you need: `from bn_helpers import data, norms, plots`. Importing the package
loads none of them, and never PyTorch.
"""
