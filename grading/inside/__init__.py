"""What the grader puts into the sandbox: the runner, and what it sends with."""
