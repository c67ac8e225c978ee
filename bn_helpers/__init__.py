"""Reference implementations, checks, data and figures of the course.

Import what you need: `from bn_helpers import check, data, norms, plots`.
Importing the package loads none of them, and never PyTorch.
"""
