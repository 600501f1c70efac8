"""The peer in NumPy: gradients derived by hand, every lane in one array, the last axis."""

import numpy as np

from experiments.throughput.workloads import DATA, RULES, Workload, first_state, flat, lanes_of


def parabola(params):
    (x,) = params
    return x**2 + 5, (2 * x,)


def rosenbrock(params):
    x, y = params
    off = y - x**2
    return (1 - x) ** 2 + 100 * off**2, (2 * (x - 1) - 400 * x * off, 200 * off)


def rastrigin(params):
    (x,) = params
    angle = 2 * np.pi * x
    return (x**2 + 10 - 10 * np.cos(angle)).sum(0), (2 * x + 20 * np.pi * np.sin(angle),)


def network(params):
    (inputs, targets), (w1, b1, w2, b2) = DATA, params
    units, lanes = b1.shape
    hidden = np.tanh((inputs @ w1.reshape(-1, units * lanes)).reshape(-1, units, lanes) + b1)
    errors = (hidden * w2).sum(1) + b2 - targets[:, None]
    slope = 2 / len(targets) * errors
    back = slope[:, None] * w2 * (1 - hidden**2)
    grads = (
        (inputs.T @ back.reshape(-1, units * lanes)).reshape(w1.shape),
        back.sum(0),
        (hidden * slope[:, None]).sum(0),
        slope.sum(0),
    )
    return (errors**2).mean(0), grads


VALUE_AND_GRADS = {"parabola": parabola, "rosenbrock": rosenbrock, "rastrigin": rastrigin, "network": network}


def by_hand(workload: Workload, most: int):
    value_and_grads, rule = VALUE_AND_GRADS[workload.cost], RULES[workload.rule]
    lanes = lanes_of(workload, most)
    many = len(lanes["learning_rate"])
    start = tuple(np.repeat(leaf[..., None], many, axis=-1) for leaf in workload.start)

    def run():
        params, state = start, first_state(workload.rule, lambda: tuple(map(np.zeros_like, start)))
        with np.errstate(all="ignore"):  # what diverges is a result
            for epoch in range(workload.epochs):
                cost, grads = value_and_grads(params)
                updates, state = rule(np, grads, state, np.float32(epoch), **lanes)
                if workload.target is not None:  # a lane that has met it stands still
                    updates = tuple(np.where(cost > workload.target, u, 0) for u in updates)
                params = tuple(p + u for p, u in zip(params, updates, strict=True))
            return params, value_and_grads(params)[0]

    def read(raw):
        params, cost = raw
        return {"params": flat(tuple(np.moveaxis(leaf, -1, 0) for leaf in params)), "cost": cost}

    return run, read
