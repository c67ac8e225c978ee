"""The usual way of doing a job, written by us and timed beside ours.

    python -m benchmarks [NAME ...]

Each module offers `rows(say, ...)`: it proves that both ways give the same result, runs
them in turns and yields rows of one table.
"""
