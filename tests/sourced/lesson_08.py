"""Published mistakes of lesson 08 that no bank lists: edits have to explain them."""

import numpy as np

NOISE = (0.5, 1.25, 0.1)  # mean_range, largest_scale, jitter


def _draws(rng, shape, mean_range, largest_scale, jitter):
    """Everything random, in the order the task names."""
    mu = rng.uniform(-mean_range, mean_range, shape[-1])
    sigma = rng.uniform(1, largest_scale, shape[-1])
    m = rng.uniform(mu - jitter, mu + jitter, shape)
    s = rng.normal(sigma, jitter, shape)
    return mu, sigma, m, s


def _batchnorm(x, gamma, beta):
    return gamma * (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) + beta


def one_draw_for_the_batch(x, gamma, beta, rng, *noise):
    mu, sigma, _, _ = _draws(rng, x.shape, *(noise or NOISE))
    return sigma * _batchnorm(x, gamma, beta) + mu


def _predictiveness(gradient, w, steps, move=None, compare=None):
    """Distances and smoothness; the mistakes move or compare differently."""
    move = move or (lambda w, step, g: w - step * g)
    compare = compare or (lambda new, g: np.linalg.norm(new - g))
    g = gradient(w)
    distance = np.array([compare(gradient(move(w, step, g)), g) for step in steps])
    return distance, (distance / (steps * np.linalg.norm(g))).max()


def walks_uphill(gradient, w, steps):
    return _predictiveness(gradient, w, steps, move=lambda w, step, g: w + step * g)


def adds_the_gradients(gradient, w, steps):
    def compare(new, g):
        return np.linalg.norm(new + g)

    return _predictiveness(gradient, w, steps, compare=compare)


def squared_distance(gradient, w, steps):
    def compare(new, g):
        return np.square(new - g).sum()

    return _predictiveness(gradient, w, steps, compare=compare)


def _turn(W, new):
    cosine = (W * new).sum(0) / np.sqrt((W * W).sum(0) * (new * new).sum(0))
    return np.arccos(np.clip(cosine, -1, 1))


def rate_reference(W, dW, lr, decay=0.0):
    return lr / (W * W).sum(0), _turn(W, W - lr * (dW + decay * W))


def norm_not_squared(W, dW, lr, decay=0.0):
    return lr / np.sqrt((W * W).sum(0)), rate_reference(W, dW, lr, decay)[1]


def norms_of_rows(W, dW, lr, decay=0.0):
    return rate_reference(W.T, dW.T, lr, decay)


def decay_without_rate(W, dW, lr, decay=0.0):
    return lr / (W * W).sum(0), _turn(W, W - lr * dW - decay * W)


def decay_added(W, dW, lr, decay=0.0):
    return lr / (W * W).sum(0), _turn(W, W - lr * (dW - decay * W))


MISTAKES = (
    (
        "noisy_batchnorm",
        "one draw for the whole batch",
        "joaopauloschuler/neural-api #6; pwhofman/probly #500",
        one_draw_for_the_batch,
    ),
    (
        "gradient_predictiveness",
        "steps go uphill",
        "probml/pml-book #149",
        walks_uphill,
    ),
    (
        "gradient_predictiveness",
        "gradients added",
        "mameli/Test_batch_norm_paper, batch_norm_callbacks.py",
        adds_the_gradients,
    ),
    (
        "gradient_predictiveness",
        "squared distance",
        "lijinf2/gqr #38; paiml/entrenar #311",
        squared_distance,
    ),
    (
        "effective_learning_rate",
        "norm not squared",
        "K. Wen et al., From Weight Decay to Hyperball Optimization, where "
        "steps are normalized and the norm is right",
        norm_not_squared,
    ),
    (
        "effective_learning_rate",
        "norms of rows",
        "huggingface/peft #2348; openai/iaf #7; kevinzakka/pytorch-goodies #1",
        norms_of_rows,
    ),
    (
        "effective_learning_rate",
        "decay without the rate",
        "tensorflow/addons #2282; pytorch #4429",
        decay_without_rate,
    ),
    (
        "effective_learning_rate",
        "decay with the wrong sign",
        "egg-west/AdamW-pytorch #1",
        decay_added,
    ),
)
