"""Lesson 08's verdicts: its own cells run with other seeds, rates and more steps."""

from functools import cache

import numpy as np
import torch

from bn_experiments import landscape

from . import best, either, fives, from_lesson, proof

DIMS = (196, 32, 32, 32, 32, 10)
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
FIRST, OTHER = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)


@cache
def shift_study(seeds=FIRST, steps=200):
    """Section 2's three arms: accuracy and what was seen, by (rates, seeds)."""
    lesson = from_lesson(
        "08", "DIMS = (196", "def looks", "def train_arm", SEEDS=seeds, STEPS=steps
    )
    arms = {
        name: lesson.train_arm("batch", name == "noisy") for name in ("batch", "noisy")
    }
    arms["plain"] = lesson.train_arm("plain")
    test = lesson.digits.x_test, lesson.digits.y_test
    noise = torch.Generator().manual_seed(3)
    accuracy = {name: nets.accuracy(*test) for name, (_, _, nets) in arms.items()}
    accuracy["noise on"] = arms["noisy"][2].accuracy(*test, noise=noise)
    accuracy = {name: 100 * lesson.by_rate(a) for name, a in accuracy.items()}
    seen = {
        (name, kind): np.median(lesson.by_rate(values), axis=0)
        for name, (_, arm, _) in arms.items()
        for kind, values in arm.items()
        if len(values)
    }
    return accuracy, seen


def shift_studies():
    return [shift_study(), shift_study(OTHER), shift_study(OTHER, 300)]


@proof("8a", "seeds", "steps", "rate", "measure")
def shift_of_layer_inputs(row):
    times = {
        kind: np.array(
            [
                (seen["plain", kind] / seen["batch", kind]).mean(1)
                for _, seen in shift_studies()
            ]
        )
        for kind in ("moments", "values")
    }
    low = times["moments"].min()
    row.says(
        f"{either(low > 1, 'holds', 'fails')}: more than {low // 5 * 5:.0f} times less",
        f"at every rate from {RATES[0]} to {RATES[-1]}",
        f"move only {np.floor(2 * times['values'].min()) / 2:g}"
        f" to {np.ceil(2 * times['values'].max()) / 2:g} times less",
    )


@proof("8b", "seeds", "steps", "rate", "noise in evaluation")
def noisy_against_plain(row):
    studies = shift_studies()
    moved = [(s["noisy", "moments"] > s["plain", "moments"]).all() for _, s in studies]
    lead = {
        name: [(best(a[name]) - best(a["plain"])).mean() for a, _ in studies]
        for name in ("noisy", "noise on")
    }
    holds = all(moved) and min(lead["noisy"]) > 0
    row.says(
        f"{either(holds, 'holds', 'fails')} best against best: noisy batch norm shifts "
        f"{either(all(moved), 'more', 'less')} than plain and is "
        f"{either(min(lead['noisy']) > 0, 'ahead of', 'behind')} it"
    )
    gaps = np.array([(a["noisy"] - a["plain"]).mean(1) for a, _ in studies])
    row.says(
        f"at {RATES[2]} and below noisy is {either((gaps[:, :3] < 0).all(), 'behind', 'ahead of')} plain",
        f"noise left on in evaluation: {either(max(lead['noise on']) < 0, 'not ahead', 'ahead')}, best against best",
    )


@proof("8c", "seeds", "steps", "rate")
def shift_of_gradients(row):
    ahead = [
        seen["batch", "gradient"][1].mean(0) > seen["plain", "gradient"][1].mean(0)
        for _, seen in shift_studies()
    ]  # (rates, seeds) each
    large, small = np.array(ahead)[:, 2:], np.array(ahead)[:, 0]
    row.says(
        f"at {RATES[2]} and more it {either(large.all(), 'does', 'does not')}, in every seed",
        f"at {RATES[0]} it {either(small.mean() < 0.5, 'does not', 'does')}, in most seeds",
    )


@proof("8d", "seeds", "steps", "rate")
def predictive_gradients(row):
    closer = [
        seen["batch", "along"][1].mean(0) < seen["plain", "along"][1].mean(0)
        for _, seen in shift_studies()
    ]
    large, small = np.array(closer)[:, 2:], np.array(closer)[:, 0]
    row.says(
        f"{either(large.all(), 'holds', 'fails')} from rate {RATES[2]} on, in every seed",
        f"at {RATES[0]} the {either(small.mean() < 0.5, 'plain', 'normalized')} gradient"
        " is more predictive, in most seeds",
    )


@cache
def starts(norm, seeds, rate, steps, scales=(0.1, 1, 10)):
    """Test accuracy from several scales of the start, (scales, seeds)."""
    data = landscape.digits()
    nets = landscape.Networks(DIMS, norm, seeds=len(scales) * seeds)
    factor = torch.tensor(np.repeat(scales, len(seeds))).reshape(-1, 1, 1)
    landscape.fit(nets.rescale(factor.double()), data, rate, steps)
    return 100 * nets.accuracy(data.x_test, data.y_test).reshape(len(scales), -1)


def cost(scores):
    """Points that the start × 10 costs, lowest and highest mean of the seeds."""
    return (scores[1] - scores[2]).mean()


@proof("8e", "seeds", "rate", "steps")
def scale_of_the_start(row):
    usual = [starts("batch", seeds, 0.1, 200) for seeds in (FIRST, OTHER)]
    small = max(abs(s[1] - s[0]).mean() for s in usual)
    low = min(cost(s) for s in usual)
    row.says(
        f"{either(low > 5, 'fails', 'holds')}: a tenth of the usual scale costs "
        f"{either(small < 3, 'nothing', 'accuracy')}, ten times the scale costs more than "
        f"{low // 5 * 5:.0f} points"
    )
    long = [cost(starts("batch", seeds, 0.1, 1000)) for seeds in (FIRST, OTHER)]
    fast = [cost(starts("batch", seeds, 0.3, 200)) for seeds in (FIRST, OTHER)]
    row.says(f"steps: after 1,000 the start × 10 costs {fives(long)} points")
    row.says(f"the rate: at 0.3 it costs {fives(fast)}")


@proof("8f", "seeds", "rate", "eps")
def decay_is_a_schedule(row):
    def apart(eps, eta, decay, seeds):
        def run(**options):
            nets = landscape.Networks(DIMS, "batch", seeds=seeds, eps=eps)
            return landscape.fit(nets, landscape.digits(), eta, 100, **options)

        def growing(step):
            return eta * (1 - eta * decay) ** (-2 * step - 1)

        return abs(run(weight_decay=decay) - run(hidden_lr=growing)).max()

    exact = max(apart(1e-30, 0.5, 0.01, FIRST), apart(1e-30, 0.2, 0.03, OTHER))
    usual = apart(1e-5, 0.5, 0.01, FIRST)
    row.says(
        f"{either(exact < 1e-6, 'holds exactly', 'fails')}: two trainings, "
        f"{either(exact < 1e-6, 'equal', 'different')} losses",
        f"at PyTorch's 1e-5 the losses differ by {either(usual > 1e-6, 'more', 'less')} than 1e-6",
    )


@cache
def turns(seeds, decay, rate):
    """Root mean square turn, (steps, starts): lesson 08, section 5."""
    lesson = from_lesson("08", "DIMS = (196", "LONG, STARTS", SEEDS=seeds)
    return np.sqrt((lesson.watch_weights(decay, rate)[1] ** 2).mean((1, 3)))


@proof("8g", "seeds", "rate", "start", "steps")
def rotational_equilibrium(row):
    runs = [turns(FIRST, 0.01, 1.0), turns(OTHER, 0.01, 1.0), turns(OTHER, 0.005, 2.0)]
    ends = np.array([np.sqrt((t[-100:] ** 2).mean(0)) for t in runs]) / 0.02**0.5
    off = abs(ends - 1).max()
    row.says(
        f"{either(off < 0.1, 'holds', 'fails')} within {np.ceil(100 * off):.0f} %, "
        "from starts × 0.5 to × 2"
    )
    early = min(1 - t[45:50, 2].mean() / 0.02**0.5 for t in runs)
    free = max(turns(FIRST, 0.0, 1.0)[-100:].mean(0)) / 0.02**0.5
    row.says(
        f"after 50 steps the start × 2 is more than {100 * early // 10 * 10:.0f} % below",
        f"no decay: the turn {either(free < 0.5, 'falls below', 'stays above')} half of the law",
    )


def growth(batch, step=None, seeds=FIRST, width=64):
    """Growth of the gradient per layer in 50 layers of batch norm and ReLU, (seeds,)."""
    data, depth = landscape.digits(), 50
    x, y = data.x_train[:batch], data.y_train[:batch]
    nets = landscape.Networks((196, *depth * (width,), 10), "batch", seeds=seeds)
    if step:
        landscape.descend(nets, nets.gradients(x, y)[1], step)
    sizes = landscape.sizes(nets.gradients(x, y)[1][1:depth])
    return np.exp(-np.polyfit(np.arange(len(sizes)), np.log(sizes), 1)[0])


@proof("8h", "seeds", "width", "batch size", "steps")
def explosion_with_depth(row):
    large = [growth(b, seeds=s) for b in (64, 128, 256) for s in (FIRST, OTHER)]
    large += [growth(128, width=32)]
    low, high = min(map(np.min, large)), max(map(np.max, large))
    few = min(growth(4, seeds=s).min() for s in (FIRST, OTHER))
    one = max(growth(128, 1.0, s).max() for s in (FIRST, OTHER))
    row.says(
        f"{either(low > 1.1, 'holds', 'fails')} at the start: × {np.floor(50 * low) / 50:.2f}"
        f" to {np.ceil(50 * high) / 50:.2f} for batches of 64 and more",
        f"× {np.floor(10 * few) / 10:.1f} and more at 4",
        f"one step at rate 1: below × {np.ceil(20 * one) / 20:.2f}",
    )


@proof("8i", "seeds", "rate", "steps")
def deep_residual_networks(row):
    lesson = from_lesson("08", "DIMS = (196")
    rates, thirty = (0.003, 0.01, 0.03, 0.1), (196, *30 * (32,), 10)
    kinds = {
        "shortcuts": {"residual": True},
        "batch": {"norm": "batch", "residual": True},
        "skipinit": {"residual": True, "skipinit": True},
    }

    def run(name, seeds, steps):
        return landscape.sweep(
            lesson.digits, thirty, rates, steps, seeds, kinds[name]
        ).test

    choices = ((0, 1, 2), 100), ((3, 4, 5), 200)
    found = {name: [run(name, *choice) for choice in choices] for name in kinds}
    learn = min(best(scores).min() for scores in found["batch"])
    alone = max(scores.max() for scores in found["shortcuts"])
    as_good = min(
        (best(s) - best(b)).mean()
        for s, b in zip(found["skipinit"], found["batch"], strict=True)
    )
    row.says(
        f"{either(learn > 50 and alone < 20, 'holds', 'fails')}: 30 layers "
        f"{either(learn > 50, 'learn', 'do not learn')} with shortcuts and batch norm, and "
        f"{either(alone < 20, 'not', 'also')} with shortcuts alone",
        f"SkipInit without a norm does {either(as_good > 0, 'at least as well', 'worse')}",
        f"{either(alone < 20, 'no', 'some')} rate from {rates[0]} to {rates[-1]} helps shortcuts alone",
    )


@cache
def by_heart(batch, seeds):
    """Section 7's arms: test accuracy (rates, seeds) on 300 training images."""
    lesson = from_lesson("08", "DIMS = (196")
    few = lesson.digits._replace(
        x_train=lesson.digits.x_train[:300], y_train=lesson.digits.y_train[:300]
    )
    arms = {
        "plain": ("plain", {}),
        "batch": ("batch", {}),
        "no noise": ("batch", {"full_statistics": True}),
    }
    return {
        name: landscape.sweep(
            few,
            (196, 32, 32, 10),
            (0.1, 0.2, 0.8),
            300,
            seeds,
            {"norm": norm},
            batch_size=batch,
            **options,
        ).test
        for name, (norm, options) in arms.items()
    }


def leads(other, batch, of=best):
    """Mean lead of batch norm over another arm of section 7, for two sets of seeds."""
    runs = [by_heart(batch, seeds) for seeds in (FIRST, OTHER)]
    return [(of(run["batch"]) - of(run[other])).mean() for run in runs]


@proof("8j", "seeds", "rate", "batch size")
def noise_of_batch_norm(row):
    twenty, ten = max(leads("no noise", 20)), max(leads("no noise", 10))
    slow, fast = (leads("no noise", 20, lambda s, k=k: s[k]) for k in (0, 2))
    row.says(
        f"{either(twenty < 0.5, 'fails', 'holds')} best against best: batch norm is "
        f"{either(twenty < 0.5, 'not ahead', 'ahead')} of its noise-free twin in batches of 20,"
        f" and {either(ten < -1, 'behind', 'ahead of')} it in batches of 10",
        f"in batches of 20 the noise {either(min(slow) > 0, 'helps', 'hurts')} at 0.1 and "
        f"{either(max(fast) < 0, 'hurts', 'helps')} at 0.8",
    )


@proof("8k", "seeds", "rate", "batch size")
def generalization(row):
    best_leads = leads("plain", 20) + leads("plain", 10)
    fast = min(leads("plain", 20, lambda s: s[2]))
    plain = max(by_heart(20, seeds)["plain"][2].mean() for seeds in (FIRST, OTHER))
    row.says(
        f"{either(max(best_leads) < 0.5, 'fails', 'holds')} on 300 images: at best rates "
        f"batch norm is {either(max(best_leads) < 0.5, 'not ahead', 'ahead')} of plain",
        f"at 0.8 batch norm is {either(fast > 10, 'ahead', 'behind')}, because plain "
        f"{either(plain < 60, 'does not learn', 'learns')}",
    )


@proof("8l", "seeds", "rate", "steps")
def place_of_the_norm(row):
    def run(activation, place, seeds, steps):
        network = {"norm": "batch", "activation": activation, "place": place}
        data, rates = landscape.digits(), (0.1, 0.3, 1.0, 3.0)
        return landscape.sweep(
            data, DIMS, rates, steps, seeds, network, batch_size=64
        ).test

    choices = (FIRST, 150), (OTHER, 150), (FIRST, 400)
    found = {
        (a, p): [run(a, p, *choice) for choice in choices]
        for a in ("relu", "sigmoid")
        for p in ("before", "after")
    }
    lead = {
        a: [
            (best(x) - best(y)).mean()
            for x, y in zip(found[a, "before"], found[a, "after"], strict=True)
        ]
        for a in ("relu", "sigmoid")
    }
    close, worse = max(map(abs, lead["relu"])) < 1, max(lead["sigmoid"]) < -1
    robust = all(s[3].min() > 70 for s in found["sigmoid", "before"])
    fragile = all(s[3].min() < 50 for s in found["sigmoid", "after"])
    row.says(
        f"{either(close and worse, 'fails', 'holds')}: {either(close, 'within a point', 'apart')} "
        f"with ReLU, {either(worse, 'worse', 'better')} with sigmoid at the best rates",
        f"at 3 sigmoid learns in every seed {either(robust and fragile, 'only with', 'without')} the norm before",
    )


@proof("8m", "seeds", "steps", "parameters")
def rate_by_parameter_group(row):
    def run(lr, hidden, seeds, steps):
        rates = torch.tensor(np.repeat(hidden, len(seeds))).reshape(-1, 1, 1)
        return landscape.sweep(
            landscape.digits(),
            DIMS,
            lr,
            steps,
            seeds,
            {"norm": "batch"},
            hidden_lr=lambda step: rates,
        ).test

    large, usual = (10.0, 100.0, 1000.0), (0.3, 0.3, 0.3)
    choices = (FIRST, 100), (OTHER, 100), (OTHER, 300)
    everything = max(run(large, large, *choice).max() for choice in choices)
    hidden = min(run(usual, large, *choice).min() for choice in choices)
    others = max(run(large, usual, *choice)[1:].max() for choice in choices)
    row.says(
        f"{either(everything < 20, 'fails', 'holds')} for the network: at 10 "
        f"{either(everything < 20, 'nothing learns', 'it learns')}; "
        f"{either(hidden > 50, 'holds', 'fails')} for the weights before a norm: up to 1000 "
        f"{either(hidden > 50, 'every seed learns', 'some seeds fail')}",
        f"which parameters get the rate: the output layer, γ and β "
        f"{either(others < 20, 'break', 'learn')} at 100",
    )


@proof("8n", "seeds", "steps", "rate", "start")
def larger_rates(row):
    leads_at = np.array([(a["batch"] - a["plain"]).mean(1) for a, _ in shift_studies()])
    tops = {RATES[a["batch"].mean(1).argmax()] for a, _ in shift_studies()}
    row.says(
        f"{either(tops == {0.3}, 'holds', 'fails')} here: plain is "
        f"{either((leads_at[:, :3] < 0).all(), 'ahead', 'behind')} at 0.03 and below, batch norm "
        f"{either((leads_at[:, 4] > 0).all(), 'at 0.3', 'nowhere')}, where its best rate lies"
    )
    small = [
        starts("batch", FIRST, rate, 200, (0.1,))
        - starts("plain", FIRST, rate, 200, (0.1,))
        for rate in RATES
    ]
    row.says(
        f"with weights × 0.1, plain is ahead at {either(min(s.mean() for s in small) > 0, 'no', 'some')} rate"
    )


@proof("8o", "seeds", "ridge", "readout")
def readout_of_deep_layers(row):
    lesson = from_lesson("08", "DIMS = (196", "def prepared")

    def ahead(activation, readout):
        """Lead of batch norm: the mean over seeds, for two ridges and two seed sets."""
        found = []
        for seeds in ((0, 1, 2), (3, 4, 5)):
            for ridge in (0.2, 20.0):
                score = {
                    norm: np.mean(
                        [
                            lesson.readout_accuracy(
                                lesson.prepared(
                                    lesson.deep_layer(norm, activation, s), readout
                                ),
                                ridge,
                            )
                            for s in seeds
                        ]
                    )
                    for norm in ("plain", "batch")
                }
                found.append(score["batch"] - score["plain"])
        return np.array(found)

    kinds = ("standardized", "centered", "as it is")
    relu = max(ahead("relu", kind).max() for kind in kinds)
    centered = max(ahead("sigmoid", kind).max() for kind in kinds[:2])
    row.says(
        f"{either(relu < 0, 'fails', 'holds')} with ReLU at the start, with every readout",
        f"with sigmoid, plain is {either(centered < 0, 'ahead', 'behind')} if the readout centers the units, "
        f"batch norm {either(ahead('sigmoid', kinds[2]).min() > 0, 'if not', 'never')}",
    )
