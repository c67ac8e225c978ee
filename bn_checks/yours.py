"""Your code or the reference: what a lesson runs on after an exercise."""

import bn_checks


def yours(name, student, reference):
    """The student's object where its check gives full points, else the reference.

    Args:
        name: the exercise's name, such as "batchnorm1d".
        student: what the student defined, right, wrong or untouched.
        reference: what stands in for it, used in the same way.

    Returns:
        One of the two; which one, and why, is printed.

    Raises:
        AttributeError: no lesson has an exercise of that name.
    """
    score = getattr(bn_checks, name)(student)
    if score == score.points:
        print(f"{name}: your code")
        return student
    if all(row.state == bn_checks.NOT_ATTEMPTED for row in score.rows):
        why = "the exercise is not attempted yet"
    else:
        why = f"your code earns {float(score):g} of {score.points:g} points"
    print(f"{name}: the reference, because {why}")
    return reference
