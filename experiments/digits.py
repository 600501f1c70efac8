"""Digits: a network of 64, 32 and 10 units over learning rates and seeds, by jaxgd, by hand, and one by one.

Mini-batch descent on scikit-learn's digits (1 797 images of 8 × 8), each pixel from 0 to 1; split into
train, validation and test. Each way makes the same updates from the same weights, with the batches of
an epoch in the same order, and records the cost of the whole training set in every epoch:

- jaxgd: `jaxgd.sweep`, with its verdicts, metrics and figures;
- by hand: `jit(vmap(scan))` over all lanes at once, the order shared, the data closed over;
- one by one: the same scan, jitted once, called for one lane after the other; a sample of them, scaled up.

Compilation is left out of all three. The rate is chosen by the median accuracy over seeds on
validation, and reported on test. The picture shows both, and the times.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgd
from experiments import report
from jaxgd.batches import batches
from jaxgd.networks import MLP

NETWORK = MLP((64, 32, 10))
SHARES = (0.6, 0.2)  # of the rows, for training and for validation; the rest is for the test
WANTED = 0.96  # accuracy on test, at the rate chosen on validation


class Work(NamedTuple):
    """What is to be done."""

    train: Any
    validation: Any
    test: Any
    rates: np.ndarray
    seeds: np.ndarray
    epochs: int
    batch: int

    @property
    def lanes(self) -> int:
        return len(self.rates) * len(self.seeds)


def work(rates: int, seeds: int, epochs: int, batch: int) -> Work:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    first, second = (int(len(images) * share) for share in np.cumsum(SHARES))
    sets = [
        (jnp.asarray(images[rows] / 16, jnp.float32), jnp.asarray(labels[rows], jnp.int32))
        for rows in np.split(order, [first, second])
    ]
    return Work(
        *sets, np.geomspace(1e-3, 10, rates).astype(np.float32), np.arange(seeds, dtype=np.int32), epochs, batch
    )


def lane_of(work: Work) -> Callable[..., jaxgd.Descent]:
    def lane(learning_rate, seed):
        return jaxgd.Descent(
            NETWORK.cost,
            NETWORK.init(seed),
            optax.sgd(learning_rate),
            data=work.train,
            batch_size=work.batch,
            metrics={
                "validation": lambda params: NETWORK.accuracy(params, work.validation),
                "test": lambda params: NETWORK.accuracy(params, work.test),
            },
        )

    return lane


def by_jaxgd(work: Work) -> Callable[[], Any]:
    lane, axes = lane_of(work), {"learning_rate": work.rates, "seed": work.seeds}
    return lambda: jaxgd.sweep(lane, axes, epochs=work.epochs, history=work.epochs + 1)


def scanned(work: Work) -> Callable[..., Any]:
    """One lane as one would write it by hand: its costs, epoch by epoch, and its last params."""
    data = batches(work.train, work.batch, 0, "drop")

    def lane(learning_rate, seed):
        optimizer = optax.sgd(learning_rate)

        def update(carry, rows):
            params, state = carry
            grads = jax.grad(NETWORK.cost)(params, data.batch(rows))
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        def epoch(carry, index):
            after, _ = jax.lax.scan(update, carry, data.order(index))
            return after, NETWORK.cost(carry[0], work.train)

        params = NETWORK.init(seed)
        (params, _), costs = jax.lax.scan(epoch, (params, optimizer.init(params)), jnp.arange(work.epochs))
        return jnp.append(costs, NETWORK.cost(params, work.train)), params

    return lane


def by_hand(work: Work) -> Callable[[], Any]:
    rates, seeds = (jnp.asarray(a.ravel()) for a in np.meshgrid(work.rates, work.seeds, indexing="ij"))
    program = jax.jit(jax.vmap(scanned(work)))
    return lambda: jax.block_until_ready(program(rates, seeds))


def one_by_one(work: Work, lanes: int) -> Callable[[], Any]:
    program = jax.jit(scanned(work))
    places = np.linspace(0, work.lanes - 1, lanes).round().astype(int)
    rates, seeds = work.rates[places // len(work.seeds)], work.seeds[places % len(work.seeds)]
    return lambda: [jax.block_until_ready(program(*one)) for one in zip(rates, seeds, strict=True)]


def timed(ways: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Seconds [repeat] of each way, in turns, after a first call that is not counted; and what that one gave."""
    first = {name: way() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values) for name, values in seconds.items()}, first


def chosen(table: Any) -> Any:
    """The rate with the highest median accuracy on validation; of equals, that of the lowest cost there."""
    score = table.validation.median("seed")
    cost = table.final_cost.median("seed").where(score == score.max(), np.inf)
    return table.isel(learning_rate=int(np.nanargmin(cost)))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = report.arguments(__doc__)
    for name, default, meaning in (
        ("rates", 256, "learning rates"),
        ("seeds", 4, "initialisations for each"),
        ("epochs", 50, "passes over the training set"),
        ("batch", 32, "rows per batch"),
        ("repeats", 5, "timed calls of each way"),
        ("sample", 8, "lanes carried out one by one"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=meaning)
    options = parser.parse_args(argv)
    if least := [
        name for name in ("rates", "seeds", "epochs", "batch", "repeats", "sample") if vars(options)[name] < 1
    ]:
        parser.error(f"needs --{least[0]} of 1 or more")
    task = work(options.rates, options.seeds, options.epochs, options.batch)
    ways = {"jaxgd": by_jaxgd(task), "by hand": by_hand(task), "one by one": one_by_one(task, options.sample)}
    seconds, first = timed(ways, options.repeats)
    seconds["one by one"] *= task.lanes / options.sample
    table = first["jaxgd"]
    best = chosen(table)
    accuracies = best.test.values
    rows = [
        (name, f"{np.median(s):.2f} s", f"{s.min():.2f} … {s.max():.2f}", f"{np.median(s / seconds['jaxgd']):.2f}")
        for name, s in seconds.items()
    ]
    report.show(f"{task.lanes} lanes, {task.epochs} epochs", rows, "way", "median", "spread", "times jaxgd's")
    report.show(
        "The rate chosen on validation",
        [
            (
                f"{best.learning_rate.item():.4g}",
                f"{np.median(best.validation):.4f}",
                f"≥ {WANTED}",
                f"{np.median(accuracies):.4f} ({accuracies.min():.4f} … {accuracies.max():.4f})",
            )
        ],
        "learning rate",
        "validation",
        "wanted on test",
        "test, median over seeds",
    )
    report.saved(_figure(table, best.learning_rate.item(), seconds), options.out, "digits.png")
    costs = {"jaxgd": table.cost_history.values.reshape(task.lanes, -1), "by hand": first["by hand"][0]}
    return {"seconds": seconds, "test": float(np.median(accuracies)), "costs": costs}


def _figure(table: Any, best: float, seconds: dict[str, np.ndarray]):
    import matplotlib
    from matplotlib.figure import Figure

    from jaxgd.show.style import DASHES, LINES, RC

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(9, 5.5))
        places = figure.subplot_mosaic([["cost", "times"], ["accuracy", "times"]], width_ratios=(2, 1))
        shown = {"cost": {"final_cost": "training"}, "accuracy": {"validation": "validation", "test": "test"}}
        for place, figures in shown.items():
            axes = places[place]
            for (name, label), colour, dash in zip(figures.items(), LINES, DASHES, strict=False):
                values = table[name].where(np.isfinite(table[name]))
                low, middle, high = (values.quantile(share, "seed") for share in (0, 0.5, 1))
                axes.fill_between(table.learning_rate, low, high, color=colour, alpha=0.2, linewidth=0)
                axes.plot(table.learning_rate, middle, dash, color=colour, label=label)
            if place == "accuracy":
                axes.axhline(WANTED, color="0.7", linewidth=1, zorder=0, label=f"{WANTED}, wanted on test")
            axes.axvline(best, color="0.3", linestyle=":", label="chosen on validation")
            axes.set(xscale="log", ylabel=f"{place}, median over seeds")
            axes.legend(loc="best")
        places["cost"].set(title="What each learning rate comes to", yscale="log")
        places["accuracy"].set(xlabel="learning rate", ylim=(0, 1.02))
        axes, medians = places["times"], [np.median(s) for s in seconds.values()]
        spread = [(middle - s.min(), s.max() - middle) for s, middle in zip(seconds.values(), medians, strict=True)]
        bars = axes.bar(list(seconds), medians, yerr=np.transpose(spread), color=LINES[: len(medians)], capsize=3)
        axes.bar_label(bars, [f"{m:.3g} s" for m in medians], padding=3)
        axes.set(title="All lanes, warm", ylabel="seconds, median and spread")
        axes.margins(y=0.15)
    return figure


if __name__ == "__main__":
    main()
