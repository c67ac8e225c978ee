"""Wrong answers: every known mistake of the lesson, and answers that are no answers."""

import numpy as np

from bn_checks.banks import lesson_01

from . import (
    COURSE,
    FULL,
    NONE,
    Case,
    content,
    solved,
    untouched,
    with_answer,
    wrong,
)

NO_ANSWERS = {
    "returns None": "return None",
    "returns text": "return 'full marks', 'please', 'now'",
    "returns nan": "return x * np.nan, x[0] * np.nan, x[0] * np.nan",
    "returns True": "return True, True, True",
    "returns objects": "return object(), object(), object()",
    "returns a dictionary": "return {'y': x}",
    "returns too little": "return x",
    "returns complex numbers": "return x * 1j, x[0] * 1j, x[0] * 1j",
    "returns a list that holds itself": "a = []; a.append(a); return a, a, a",
    "raises": "raise KeyError('nothing here')",
    "raises StopIteration": "raise StopIteration",
    "raises KeyboardInterrupt": "raise KeyboardInterrupt",
    "an error whose message fails": (
        "class E(Exception):\n        def __str__(self): raise self\n    raise E"
    ),
    "recursion without end": "return batchnorm_forward(x, gamma, beta, eps)",
    "a number of 5000 digits": "return 10**5000, [10**5000], 0",
    "an error whose type has no name": (
        "class M(type):\n        __name__ = property(lambda c: 1 / 0)\n"
        "    class E(Exception, metaclass=M): pass\n    raise E"
    ),
    "an error with a name without end": "raise type('A' * 10**7, (Exception,), {})",
    "errors in errors": (
        "e = ValueError('a')\n"
        "    for _ in range(3000): e = ExceptionGroup('g', [e])\n    raise e"
    ),
    "an array that lies about its size": (
        "class A(np.ndarray):\n        nbytes = 0\n        shape = (1,)\n"
        "    return x.view(A), x.view(A), x.view(A)"
    ),
    "a number that cannot be one": (
        "class F(float):\n        def __float__(self): raise SystemExit\n"
        "    return F(1), F(1), F(1)"
    ),
    "more memory than there is": "return np.ones(10**13), 0, 0",
}


def cases():
    yield Case("untouched", content(untouched()), NONE, says="○")
    for exercise in lesson_01.EXERCISES:
        for mistake in exercise.mistakes:
            yield _mistaken(exercise, mistake)
    for name, body in NO_ANSWERS.items():
        source = f"def batchnorm_forward(x, gamma, beta, eps=1e-5):\n    {body}\n"
        yield wrong(f"answer {name}", with_answer(source), says="✗")
    yield from _no_value_errors()
    yield wrong("answer is a number", with_answer("batchnorm_forward = 3.0"))
    yield wrong("answer is empty", with_answer("# later"), says="○")
    yield wrong("answer does not compile", with_answer("def batchnorm_forward(x:"))
    nb = solved()
    nb.cells = [c for c in nb.cells if c.id != COURSE.exercises[FIRST].cell]
    yield wrong("answer cell deleted", nb, says="is missing")


FIRST = "batchnorm_forward"


# for one sample, where a ValueError is asked for
NO_VALUE_ERROR = {
    "a class named ValueError": "raise type('ValueError', (Exception,), {})('one')",
    "a class that says it is one": (
        "raise type('E', (Exception,), {'__class__': ValueError})('one')"
    ),
    "a text that says it is one": "raise TypeError('raised ValueError: one')",
    "an array too large to cross": "return np.ones(10**7), 0, 0",
}


def _no_value_errors():
    exercise = next(e for e in lesson_01.EXERCISES if e.name == FIRST)
    points = round(float(exercise.score(_without_guard, FULL[FIRST], 5)), 4)
    for name, body in NO_VALUE_ERROR.items():
        source = "def batchnorm_forward(x, gamma, beta, eps=1e-5):\n"
        source += f"    if len(x) < 2:\n        {body}\n"
        source += (
            "    mu, var = x.mean(0), x.var(0)\n"
            "    return gamma * (x - mu) / np.sqrt(var + eps) + beta, mu, var\n"
        )
        says = "want a ValueError"
        yield wrong(f"answer {name}", with_answer(source), FIRST, points, says)


def _without_guard(x, gamma, beta, eps=1e-5):
    mu, var = x.mean(0), x.var(0)
    return gamma * (x - mu) / np.sqrt(var + eps) + beta, mu, var


def _mistaken(exercise, mistake):
    code = mistake.code
    score = exercise.score(code, FULL[exercise.name], 5)
    source = f"{code.source}\n\n{exercise.name} = {code.form.__name__}\n"
    return Case(
        f"{exercise.name}: {mistake.name}",
        content(with_answer(source, exercise.name)),
        FULL | {exercise.name: round(float(score), 4)},
        says=mistake.name,
    )
