"""Drivers: what runs beside the student's code, and sends arrays back.

Where a check cannot simply call the student's function with arrays, its driver does:
it builds the network or the function that a name stands for, uses the student's object
on it, and returns arrays. When a submission is graded, drivers run in the sandbox and
the rest of the check in the grader's process. So a driver imports the standard library,
NumPy, PyTorch and other drivers, and holds no reference implementation.
"""
