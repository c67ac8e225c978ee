"""Compare a backward pass with central differences, in a set-up that cannot lie.

A gradient check is only as good as its set-up. In float32, with a handful of samples,
with an upstream gradient that batch norm ignores, or with a function that remembers its
calls, wrong code passes or right code fails. `compare` refuses such a set-up, unless
told why it is wanted.
"""

from dataclasses import dataclass

import numpy as np

STEP = 1e-5  # balances truncation (h**2) against rounding (1e-16 / h)
TOLERANCE = 1e-6
FLOOR = 1e-3  # smaller gradients are judged by their absolute error
MIN_SAMPLES = 8
ZERO = 1e-8  # a gradient shorter than this is 0 but for rounding
BLIND = 0.1  # share of the upstream gradient that batch norm must let through


class Refused(ValueError):
    """The set-up would let wrong code pass, or right code fail; the text says why."""


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        gradients: the gradients under test, by name of the input.
        numerical: the central differences, by name.
        errors: relative error of each element, by name.
        tolerance: errors below it agree.
        accepted: weaknesses of the set-up that `because` let through.
        because: the reason given for them, or None.
    """

    gradients: dict
    numerical: dict
    errors: dict
    tolerance: float
    accepted: tuple = ()
    because: str | None = None

    @property
    def agrees(self):
        """Whether every element of every gradient agrees."""
        return not self.wrong

    @property
    def wrong(self):
        """Names of the inputs with a wrong gradient."""
        limit = self.tolerance
        return tuple(name for name, e in self.errors.items() if not np.all(e < limit))

    @property
    def text(self):
        """One line per input, and the accepted weaknesses."""
        lines = [f"set-up: {what} (accepted: {self.because})" for what in self.accepted]
        return "\n".join(lines + [self._line(name) for name in self.errors])

    def __repr__(self):
        return self.text

    def _line(self, name):
        if name not in self.wrong:
            return f"{name}: agrees, every error is below {self.tolerance:g}"
        errors = np.nan_to_num(self.errors[name], nan=np.inf)
        worst = np.unravel_index(np.argmax(errors), errors.shape)
        place = f"{name}[{', '.join(map(str, worst))}]" if worst else name
        wrong = int(np.sum(errors >= self.tolerance))
        return (
            f"{name}: WRONG in {wrong} of {errors.size} elements; {place}: got "
            f"{self.gradients[name][worst]:.4g}, want {self.numerical[name][worst]:.4g}"
        )


def numerical_gradient(f, x, h=STEP):
    """Gradient of a number with respect to an array, by central differences.

        g[i] = (f(x + h e_i) - f(x - h e_i)) / (2 h)      e_i: 1 at i, 0 elsewhere

    Args:
        f: function of an array like x that returns a number.
        x: where to take the gradient, any shape, float64.
        h: step.

    Returns:
        The gradient, the shape of x.

    State: x is not modified; f is called twice per element, on copies.
    """
    gradient = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[i] += h
        below[i] -= h
        gradient[i] = (f(above) - f(below)) / (2 * h)
    return gradient


def compare(
    f,
    inputs,
    gradients,
    dy=None,
    *,
    state=None,
    because=None,
    tolerance=TOLERANCE,
    h=STEP,
):
    """Compare gradients with central differences of the loss sum(dy * f(**inputs)).

        error = |gradient - numerical| / max(|gradient|, |numerical|, 1e-3)

    Args:
        f: called as f(**inputs); returns an array y, or a number, which is the loss.
        inputs: arrays by name; the first one is the batch, with samples in rows.
        gradients: the gradient under test for each input, by the same names.
        dy: upstream gradient, the shape of y; random numbers are best. None if f
            returns a number.
        state: function without arguments that returns what f must leave alone, such as
            running statistics; None if there is nothing.
        because: why a weak set-up is wanted; without a reason it is refused.
        tolerance: relative error that still counts as agreement.
        h: step of the central differences; it has to be small beside the spread of x.

    Returns:
        `Comparison`; print it, or ask it for `agrees`.

    Raises:
        Refused: the set-up is weak, and no reason was given. Weak are: not float64;
            fewer than 8 samples; dy in the directions that normalizing ignores
            (constant, or a straight line in y); an input that is 0 or 1
            everywhere, which hides a factor; f gives another y when called again;
            `state` changes.
        ValueError: names or shapes that do not fit.
    """
    inputs = {name: np.asarray(value) for name, value in inputs.items()}
    gradients = {name: np.asarray(value) for name, value in gradients.items()}
    dy = np.array(1.0) if dy is None else np.asarray(dy)
    before = _snapshot(state)
    y, again = _call(f, inputs), _call(f, inputs)
    _require_fit(inputs, gradients, y, dy)

    weak = [*_weak_numbers(inputs, y, dy), *_weak_upstream(y, dy)]
    weak += _weak_memory(y, again, before, _snapshot(state))
    if weak and because is None:
        raise Refused("; ".join(weak) + '. Mend the set-up, or say because="..."')

    numerical = {
        name: numerical_gradient(_loss(f, inputs, name, dy), _as_float64(value), h)
        for name, value in inputs.items()
    }
    errors = {name: _errors(gradients[name], numerical[name]) for name in inputs}
    return Comparison(gradients, numerical, errors, tolerance, tuple(weak), because)


def _loss(f, inputs, name, dy):
    return lambda value: np.sum(dy * _call(f, {**inputs, name: value}))


def _call(f, inputs):
    return np.asarray(f(**{name: v.copy() for name, v in inputs.items()})).copy()


def _errors(gradient, numerical):
    size = np.maximum(np.abs(gradient), np.abs(numerical))
    return np.abs(gradient - numerical) / np.maximum(size, FLOOR)


def _as_float64(value):
    """Integers cannot move by a small step; floats stay as they are."""
    return value if value.dtype.kind == "f" else value.astype(np.float64)


def _snapshot(state):
    return [] if state is None else [np.asarray(value).copy() for value in state()]


def _require_fit(inputs, gradients, y, dy):
    if set(gradients) != set(inputs):
        got, want = sorted(gradients), sorted(inputs)
        raise ValueError(f"gradients are for {got}, expected one for each of {want}")
    for name, value in inputs.items():
        _require_shape(f"gradient of {name}", gradients[name], value.shape)
    _require_shape("dy", dy, y.shape)


def _require_shape(name, value, shape):
    if value.shape != shape:
        raise ValueError(f"{name} has shape {value.shape}, expected {shape}")


def _weak_numbers(inputs, y, dy):
    for name, value in {**inputs, "dy": dy, "y": y}.items():
        if value.dtype != np.float64:
            yield (
                f"{name} is {value.dtype}, where rounding swamps the differences; "
                "use float64"
            )
    for name, value in inputs.items():
        if value.size and value.flat[0] in (0, 1) and np.all(value == value.flat[0]):
            yield f"{name} is {value.flat[0]:g} everywhere, which hides a wrong factor"
    name, batch = next(iter(inputs.items()))
    if batch.ndim and len(batch) < MIN_SAMPLES:
        yield (
            f"{name} holds {len(batch)} samples, of which normalizing leaves little "
            f"gradient; use at least {MIN_SAMPLES}"
        )


def _weak_upstream(y, dy):
    """Whether dy is nearly a + b * y, which every normalization maps to 0."""
    if y.ndim == 0:
        return
    for axis in (None, *range(y.ndim)):
        n = y.size if axis is None else y.shape[axis]
        if n >= MIN_SAMPLES and _let_through(y, dy, axis) < BLIND:
            yield (
                "dy is constant, or a straight line in y, which normalizing maps to 0; "
                "use a random dy"
            )
            return


def _let_through(y, dy, axis):
    """Share of dy, by size, that is left without its parts along 1 and y."""
    y_hat = y - y.mean(axis, keepdims=True)
    y_hat /= np.sqrt(np.mean(y_hat**2, axis, keepdims=True)) + 1e-300
    rest = dy - dy.mean(axis, keepdims=True)
    rest = rest - y_hat * np.mean(rest * y_hat, axis, keepdims=True)
    return np.linalg.norm(rest) / (np.linalg.norm(dy) + 1e-300)


def _weak_memory(y, again, before, after):
    if not np.array_equal(y, again, equal_nan=True):
        yield "f gives another y for the same inputs when called again"
    if not all(map(np.array_equal, before, after)):
        yield "f changes its state (such as running statistics) when called"


def direction_and_size(gradient, truth):
    """Compare two gradients as arrows.

        cosine = sum(gradient * truth) / (|gradient| |truth|)
        size   = |gradient| / |truth|

    where |g| is the root of the sum of all squares.

    Args:
        gradient, truth: arrays of one shape.

    Returns:
        cosine and size. A length below 1e-8 is 0 but for rounding: the cosine is then
        1 and the size 1 if both are 0, else the cosine is 0 and the size 0 or inf.
    """
    length, true_length = np.linalg.norm(gradient), np.linalg.norm(truth)
    if length < ZERO and true_length < ZERO:
        return 1.0, 1.0
    if length < ZERO or true_length < ZERO:
        return 0.0, 0.0 if length < ZERO else np.inf
    return np.sum(gradient * truth) / (length * true_length), length / true_length
