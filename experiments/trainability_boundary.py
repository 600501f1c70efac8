"""The boundary of trainability: which pairs of learning rates, one per layer, train a small network?

ŷ = W₁ᵀ φ(W₀ᵀ x / √n) / n without biases, full-batch gradient descent on the mean squared error over
random data, in float64; the input layer's learning rate across, the output layer's up. The boundary
between training and divergence is a fractal. Two results are measured again: the author's picture
(`--reference PICTURE` compares it, pixel by pixel, with the author's own), and the box-counting
dimension of the boundary under five conditions.

The paper's dimensions come from networks of width 16, 500 or 1 000 epochs, and long zooms at high
resolution, whose places were not published. By default this study is smaller (width 8, 100 epochs,
five zooms by two, some minutes), and each looks where the boundary is densest. What it measures is
1.03 for 1.17 as published (deep linear), 1.59 for 1.20 (ReLU), 1.01 for 1.41 (one datapoint), 1.74
for 1.55 (minibatch) and 1.59 for 1.66 (full batch): only the last within 0.1. What made a difference,
one change at a time:

- Depth. No condition has one dimension at every zoom. Each whole picture reads 1.0 to 1.2, a line;
  zoomed 32 times, ReLU, minibatch and full batch read 1.98, as good as dust. Four of the published
  figures lie between; so a figure says how deep one looked. The table has a column for every zoom.
- Place. `--crowd 0.5` zooms where the boundary is as dense as in most places: 1.06, 1.57, 0.99, 1.57
  (minibatch, 0.02 from the published) and 1.48, up to 0.2 lower.
- Epochs. One datapoint is a smooth line down to zoom 32 at 500 epochs too; but from zoom 64 on it
  then reads 1.3 to 1.9 (1.57 over `--frames 17`), which at 100 epochs it does not.
  Deep linear reads the same at 100 and at 500 epochs.
- Width. 16 in place of 8 changes little: 1.73 and 1.74 at zoom 16 (full batch, 136 pixels).
- Resolution. The estimate has few sizes of boxes in a small picture. Off shores whose dimension is
  known it reads, at 128 pixels, 0.15 too little, and at 224 no more than 0.11 too much: held against the same
  ruler, the table ends with what it reads. A picture of 128 pixels makes the figures as much smaller.

Sohl-Dickstein (2024), "The boundary of neural network trainability is fractal", arXiv:2402.06184.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgd
from experiments import report

CAP = 1e6  # relative to the cost at the start
WHOLE = (-3.0, 6.0, -3.0, 6.0)  # log10 of the rates: input layer from, to, output layer from, to
_HISTORY_BYTES = 1 << 26  # of costs held at a time
_KNOWN, _SHORES = (1.2, 1.5, 1.8), 12  # dimensions that the ruler is held against, and shores of each

ACTIVATIONS: dict[str, Callable] = {
    "tanh": lambda z: jnp.tanh(jnp.sqrt(2) * z),
    "relu": lambda z: jnp.sqrt(2) * jax.nn.relu(z),
    "identity": lambda z: z,
}


class Condition(NamedTuple):
    """What is trained, on what."""

    activation: str
    points: Callable[[int], int]  # width → data points
    batch: int | None  # drawn anew for each epoch; None: all points
    published: float  # dimension


def _as_many_as_params(width: int) -> int:
    return width * (width + 1)


CONDITIONS = {
    "deep linear": Condition("identity", lambda width: width, None, 1.17),
    "ReLU": Condition("relu", _as_many_as_params, None, 1.20),
    "tanh, one datapoint": Condition("tanh", lambda width: 1, None, 1.41),
    "tanh, minibatch": Condition("tanh", _as_many_as_params, 16, 1.55),
    "tanh, full batch": Condition("tanh", _as_many_as_params, None, 1.66),
}
AUTHORS = "tanh, full batch"  # the condition of the author's picture


def lane_of(condition: Condition, width: int, epochs: int) -> Callable[..., jaxgd.Descent]:
    """One training as a function of the two learning rates; weights, data and batches as in the author's notebook."""
    with jax.threefry_partitionable(False):  # as it was when the pictures were made
        key, weights = jax.random.split(jax.random.PRNGKey(0))
        key, inputs = jax.random.split(key)
        key, outputs = jax.random.split(key)
        hidden, output = jax.random.split(weights)
        params = (jax.random.normal(hidden, (width, width)), jax.random.normal(output, (width, 1)))
        points = condition.points(width)
        x, y = jax.random.normal(inputs, (points, width)), jax.random.normal(outputs, (points, 1))
        keys = jax.random.split(jax.random.PRNGKey(42), epochs)
        draws = jax.vmap(lambda key: jax.random.randint(key, (condition.batch or 1,), 0, points))(keys)
    activation = ACTIVATIONS[condition.activation]

    def cost_on(params, x, y):
        w0, w1 = params
        return jnp.mean((activation(x @ w0 / jnp.sqrt(width)) @ w1 / width - y) ** 2)

    def cost(params):
        return cost_on(params, x, y)

    def grads_at(params, epoch):
        return jax.grad(cost_on)(params, x[draws[epoch]], y[draws[epoch]])

    def lane(learning_rate_in, learning_rate_out):
        rates = (learning_rate_in, learning_rate_out)
        plain = jaxgd.gradient_descent(rates)
        return jaxgd.Descent(cost, params, plain if condition.batch is None else _on_other_grads(plain, grads_at))

    return lane


def picture(lane: Callable, window: Sequence[float], resolution: int, epochs: int) -> np.ndarray:
    """How well each pair of rates trains, [output layer's, input layer's]: below 0 it converges, above it diverges."""
    across, up = (np.logspace(low, high, resolution) for low, high in (window[:2], window[2:]))
    rows = max(1, _HISTORY_BYTES // (8 * epochs * resolution))
    strips = [up[i : i + rows] for i in range(0, resolution, rows)]
    return np.concatenate([_strip(lane, strip, across, epochs) for strip in strips])


def measure(costs: np.ndarray) -> np.ndarray:
    """−Σv where the mean of the last 20 is below 1, else Σ(1/v), with v the costs [..., epoch] over the first."""
    v = np.where(np.isfinite(costs), costs, CAP)
    with np.errstate(over="ignore", divide="ignore"):  # what overflows is capped; a cost of 0 makes no lane diverge
        v = np.minimum(v / v[..., :1], CAP)
        return np.where(v[..., -20:].mean(-1) < 1, -v.sum(-1), (1 / v).sum(-1))


def boundary(values: np.ndarray) -> np.ndarray:
    """Where a block of two by two pixels holds both signs."""
    blocks = np.stack([values[1:, 1:], values[:-1, 1:], values[1:, :-1], values[:-1, :-1]])
    return blocks.max(0) * blocks.min(0) < 0


def slopes(edge: np.ndarray) -> np.ndarray:
    """Local box-counting dimensions: −d log(boxes that hold boundary and not only boundary) / d log(size)."""
    sizes = np.unique(np.logspace(1, np.log10(len(edge)), 10).astype(int))
    counts = np.array([_mixed_boxes(edge, size) for size in sizes])
    sizes, counts = sizes[counts > 0], counts[counts > 0]
    return -np.gradient(np.log(counts), np.log(sizes)) if len(sizes) > 1 else np.empty(0)


def closer(window: Sequence[float], edge: np.ndarray, crowd: float = 1.0) -> tuple[float, ...]:
    """A window of half the size around the place where the boundary is denser than at this share of its places."""
    size, box = len(edge), max(1, len(edge) // 8)
    sums = np.pad(edge.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    held = sums[box:, box:] - sums[:-box, box:] - sums[box:, :-box] + sums[:-box, :-box]
    order = np.argsort(-held, axis=None, kind="stable")  # the densest box first
    chosen = order[np.searchsorted(held.ravel()[order].cumsum(), (1 - crowd) * held.sum())]
    up, across = (np.array(np.unravel_index(chosen, held.shape)) + box / 2) / size
    (x, width), (y, height) = (
        (low + at * (high - low), high - low) for low, high, at in ((*window[:2], across), (*window[2:], up))
    )
    return x - width / 4, x + width / 4, y - height / 4, y + height / 4


def frames(
    condition: Condition, width: int, epochs: int, resolution: int, count: int, crowd: float = 1.0
) -> list[np.ndarray]:
    """The whole picture and its zooms, each into half of the one before."""
    lane, window, seen = lane_of(condition, width, epochs), WHOLE, []
    for _ in range(count):
        seen.append(picture(lane, window, resolution, epochs))
        window = closer(window, boundary(seen[-1]), crowd)
    return seen


def dimension(pictures: Sequence[np.ndarray]) -> float:
    """The median over all sizes and pictures."""
    every = np.concatenate([slopes(boundary(values)) for values in pictures])
    return float(np.median(every)) if every.size else np.nan


def surface(resolution: int, known: float, seed: int) -> np.ndarray:
    """A random landscape whose shore, where it crosses 0, has a known dimension from 1 to 2.

    Its waves of frequency f are f^(known − 3) high: fractional Brownian motion, of Hurst exponent 2 − known.
    """
    frequency = np.fft.fftfreq(2 * resolution)
    height = np.hypot(frequency[:, None], frequency)
    height[0, 0] = np.inf
    waves = np.fft.fft2(np.random.default_rng(seed).normal(size=height.shape)) * height ** (known - 3)
    values = np.fft.ifft2(waves).real[:resolution, :resolution]  # half of a period, so that its ends don't meet
    return values - np.median(values)


def ruler(resolution: int) -> dict[float, float]:
    """What the estimate reads, at a resolution, off shores of a known dimension."""
    return {known: dimension([surface(resolution, known, seed) for seed in range(_SHORES)]) for known in _KNOWN}


def colours(values: np.ndarray) -> np.ndarray:
    """Ranks, spread over both halves of [−1, 1]: what converges from 0.25 up, what diverges from −0.25 down."""
    shown = np.empty(values.shape)
    for mask, low, high in ((values < 0, -1, -0.25), (values >= 0, 0.25, 1)):
        ranks = np.searchsorted(np.sort(values[mask]), values[mask])  # equals share a rank
        shown[mask] = np.interp(ranks, (0, max(1, mask.sum() - 1)), (low, high))
    return -shown


def converged_in(reference: Path, resolution: int) -> np.ndarray:
    """Which pixels converged, [output layer's, input layer's], as read off a picture in the author's colours.

    The picture may have axes with a dark frame around it and any scale: what counts is the colour
    in the middle of each of resolution × resolution pixels, the lowest rates at the bottom left.
    """
    import matplotlib.image

    image = matplotlib.image.imread(reference)[..., :3]
    frame = (image < 0.25).all(-1)  # darker than every colour of the map
    rows, columns = (np.flatnonzero(frame.mean(axis) > 0.5) for axis in (1, 0))
    ends = [
        (lines[0], lines[-1]) if lines.size else (0, size)
        for lines, size in zip((rows, columns), frame.shape, strict=True)
    ]
    (down, across) = (low + (np.arange(resolution) + 0.5) / resolution * (high - low) for low, high in ends)
    red, green, blue = np.moveaxis(image[np.ix_(down.astype(int), across.astype(int))], -1, 0)
    return (np.maximum(green, blue) > red)[
        ::-1
    ]  # Spectral: green to violet on the one side, yellow to red on the other


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    parser = report.arguments(__doc__)
    parser.add_argument("--width", type=int, default=8, help="of the network; 16 in the paper")
    parser.add_argument("--epochs", type=int, default=100, help="500 or 1000 in the paper")
    parser.add_argument("--resolution", type=int, default=224, help="pixels per side; 512 for the author's picture")
    parser.add_argument(
        "--frames",
        type=int,
        default=6,
        help="pictures per condition, the whole and its zooms; 0: the author's picture only",
    )
    parser.add_argument(
        "--crowd",
        type=float,
        default=1.0,
        help="where to zoom: 1 where the boundary is densest, 0.5 where it is as dense as in most places",
    )
    parser.add_argument("--reference", type=Path, help="the author's picture, to compare with")
    options = parser.parse_args(argv)
    if options.resolution < 24 or options.epochs < 20 or options.width < 1 or options.frames < 0:
        parser.error(
            "needs --resolution of 24 or more, --epochs of 20 or more, --width of 1 or more, --frames of 0 or more"
        )
    if not 0 < options.crowd <= 1:
        parser.error("needs --crowd above 0, up to 1")
    jax.config.update("jax_enable_x64", True)
    reference = converged_in(options.reference, options.resolution) if options.reference else None
    size = options.width, options.epochs, options.resolution
    count, crowd = options.frames, options.crowd
    seen = {name: frames(condition, *size, count, crowd) for name, condition in CONDITIONS.items() if count}
    whole = seen[AUTHORS][0] if seen else frames(CONDITIONS[AUTHORS], *size, 1)[0]
    found = {name: dimension(pictures) for name, pictures in seen.items()}
    found["converged"] = float(np.mean(whole < 0))
    rows = [("share that trains, tanh, full batch", "0.51 (width 8, 100 epochs)", f"{found['converged']:.3f}")]
    if reference is not None:
        found["agreement"] = float(np.mean((whole < 0) == reference))
        rows.append(("pixels that agree with the author's picture", "1", f"{found['agreement']:.5f}"))
    said = f"width {options.width}, {options.epochs} epochs, {options.resolution} × {options.resolution}"
    report.show(f"The picture: {said}", rows, "figure", "published", "measured")
    if seen:
        _say_dimensions(seen, found, said)
    report.saved(_figure(seen or {AUTHORS: [whole]}), options.out, "trainability_boundary.png")
    return found


def _say_dimensions(seen: dict[str, list[np.ndarray]], found: dict[str, float], said: str) -> None:
    alone = {name: [f"{dimension([values]):.2f}" for values in pictures] for name, pictures in seen.items()}
    rows = [(name, CONDITIONS[name].published, f"{found[name]:.2f}", *alone[name]) for name in seen]
    zooms = [f"× {2**i}" for i in range(max(map(len, seen.values())))]
    report.show(f"The boundary's dimension: {said}", rows, "condition", "published", "measured", *zooms)
    read = ruler(len(seen[AUTHORS][0]))
    report.show(
        "The ruler, on shores of a known dimension", [(k, f"{v:.2f}") for k, v in read.items()], "known", "read"
    )


def _on_other_grads(optimizer: optax.GradientTransformation, grads_at: Callable) -> optax.GradientTransformation:
    """The optimizer, given the grads of each epoch's own batch in place of the cost's."""

    def update(grads, state, params):
        del grads
        epoch, inner = state
        updates, inner = optimizer.update(grads_at(params, epoch), inner, params)
        return updates, (epoch + 1, inner)

    return optax.GradientTransformation(lambda params: (jnp.int32(0), optimizer.init(params)), update)


def _strip(lane: Callable, up: np.ndarray, across: np.ndarray, epochs: int) -> np.ndarray:
    axes = {"learning_rate_out": up, "learning_rate_in": across}
    table = jaxgd.sweep(lane, axes, epochs=epochs - 1, history=epochs)  # the cost before each of `epochs` updates
    return measure(table["cost_history"].values)


def _mixed_boxes(edge: np.ndarray, size: int) -> int:
    starts = np.arange(0, len(edge), size)
    held = np.add.reduceat(np.add.reduceat(edge.astype(int), starts, 0), starts, 1)
    return int(np.count_nonzero((held > 0) & (held < size**2)))


def _figure(seen: dict[str, list[np.ndarray]]):
    import matplotlib
    from matplotlib.figure import Figure

    from jaxgd.show.style import RC

    count = max(map(len, seen.values()))
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(2.1 * len(seen) + 1, 2.3 * count + 0.7) if len(seen) > 1 else (7, 7))
        every = figure.subplots(count, len(seen), squeeze=False)
        for column, (name, pictures) in zip(every.T, seen.items(), strict=True):
            for row, (axes, values) in enumerate(zip(column, pictures, strict=True)):
                axes.imshow(colours(values), cmap="Spectral", vmin=-1, vmax=1, origin="lower", interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                read = f"dimension {dimension([values]):.2f}"
                axes.set_title(read if row else f"{name}\n{read}", fontsize=9)
        for axes in every[-1]:
            axes.set_xlabel("learning rate, input layer")
        for row, axes in enumerate(every[:, 0]):
            axes.set_ylabel("learning rate, output layer" if row == 0 else f"zoomed {2**row} times")
    return figure


if __name__ == "__main__":
    main()
