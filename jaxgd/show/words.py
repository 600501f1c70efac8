"""A run in plain words: what was asked, and what came out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxgd import config as cfg
from jaxgd.config import Config
from jaxgd.outcome import ABSENT, OUTCOMES, has_run
from jaxgd.ranges import Axis, shown
from jaxgd.show.ends import UNSETTLED, below_words, is_unsettled, near_misses, near_words
from jaxgd.show.style import MEANINGS
from jaxgd.show.tables import by_name, edge_words, is_axis, met_words, of_seeds, setting, tally, thousands, varies_start
from jaxgd.surfaces import SURFACES
from jaxgd.table import best, epochs_missing, merits, tried, typical

if TYPE_CHECKING:
    import xarray

_MOST_NAMES = 6  # of which something is said one by one


# --- what was asked ---


def asked(config: Config) -> list[str]:
    """Sentences: the cost, the start, the steps, how long, and what varies."""
    axes = cfg.axes(config)
    swept = {axis.key for axis in axes}
    said = [_lane(config, swept)] if config.lane else [_cost(config), _start(config, swept), _steps(config, swept)]
    said[1:1] = [_data(config)] if config.data else []
    run = config.run
    until = "" if run.target is None else f", until the cost is {_number(run.target)} or less"
    said.append(f"It goes on for up to {thousands(run.epochs)} epochs{until}, in {run.precision}.")
    if axes:
        said.append(f"What varies: {'; '.join(map(_axis, axes))}.")
    return [sentence for sentence in said if sentence]


def asked_in_python(table: "xarray.Dataset", manifest: dict[str, Any]) -> list[str]:
    """The same of a sweep that has no config: as far as its results and its manifest tell."""
    until = f", until the cost is {_number(table.attrs['target'])} or less" if "target" in table.attrs else ""
    epochs = thousands(table.attrs["epochs"])
    axes = [f"{d}, {_along(table[d].values)}" for d in map(str, table["outcome"].dims)]
    return [
        "Each descent is made by a lane function in Python.",
        f"It goes on for up to {epochs} epochs{until}, in {manifest['precision']}.",
        *([f"What varies: {'; '.join(axes)}."] if axes else []),
    ]


def _lane(config: Config, swept: set[str]) -> str:
    given = _values(config.lane.arguments, swept, "lane")
    return f"Each descent is made by {config.lane.function}{f', with {given}' if given else ''}."


def _cost(config: Config) -> str:
    if config.cost.network:
        return _network(config)
    cost = config.cost.model_dump(exclude_none=True)
    constants, minimum = cost.pop("constants", {}), cost.pop("minimum", None)
    cost.pop("minima", None)
    if surface := SURFACES.get(cost.get("surface")):
        said = f"The surface {cost['surface'].replace('_', ' ')}, {surface.equation}"
    elif "expression" in cost:
        said = f"The cost {cost['expression']}"
    elif "function" in cost:
        said = f"The cost computed by {cost['function']}"
    else:
        said = f"The cost given by {_values(cost, set(), 'cost')}"
    said += f", with {_values(constants, set(), '')}" if constants else ""
    return said + (f"; its lowest value is {_number(minimum)}." if minimum is not None else ".")


def _network(config: Config) -> str:
    network = config.cost.network
    hidden = " and ".join(map(thousands, network.hidden))
    layers = f"with hidden layers of {hidden} units ({network.activation})" if hidden else "without hidden layers"
    loss = f", its loss {network.loss}" if network.loss else ""
    return f"A network {layers}, its weights drawn by {network.initialisation}{loss}."


def _data(config: Config) -> str:
    data = config.data
    what = f"the data set {data.name}" if data.name else f"{data.file}, to predict {data.target}"
    given = f" ({_values(data.arguments, set())})" if data.arguments else ""
    train, validation, test = (f"{100 * share:.3g} %" for share in data.split)
    said = f"It learns from {what}{given}: {train} of the rows to train, {validation} to validate, {test} to test"
    return said + (f"; in batches of {thousands(data.batch_size)}." if data.batch_size else "; all rows in one batch.")


def _start(config: Config, swept: set[str]) -> str:
    starts = [f"{name} {_place(value)}" for name, value in (config.start or {}).items() if f"start.{name}" not in swept]
    if not starts:
        return ""
    return f"The ball starts at {' and '.join(starts)}."


def _place(value: Any) -> str:
    if not isinstance(value, dict):
        return f"= {shown(value)}"
    word = next(word for word in value if word != "size")
    a, b = map(_number, value[word])
    size = f", {value['size']} numbers of it" if "size" in value else ""
    if word == "normal":
        return f"drawn from a normal distribution (mean {a}, standard deviation {b}{size})"
    return f"drawn {'log-' * (word == 'loguniform')}uniformly from {a} to {b}{size}"


def _steps(config: Config, swept: set[str]) -> str:
    if config.optimizers:
        each = []
        for name, table in config.optimizers.items():
            given = _values(table.arguments, swept, f"optimizers.{name}", "optimizers")
            rule = table.name or table.function or name
            called = name if rule == name else f"{name} ({rule})"
            each.append(called + (f" with {given}" if given else ""))
        return f"It descends by {len(each)} optimizers: {'; '.join(each)}."
    table = config.optimizer
    given = _values(table.arguments, swept, "optimizer")
    return f"It descends by {table.name or table.function}{f', with {given}' if given else ''}."


def _values(given: dict[str, Any], swept: set[str], *tables: str) -> str:
    """name = value, of what doesn't vary."""
    fixed = {name: value for name, value in given.items() if not {f"{table}.{name}" for table in tables} & swept}
    said = [f"{name} = {_number(v) if isinstance(v, float) else shown(v)}" for name, v in fixed.items()]
    return ", ".join(said[:-1]) + (" and " if len(said) > 1 else "") + (said[-1] if said else "")


def _axis(axis: Axis) -> str:
    name = axis.name if axis.optimizer is None else f"{axis.name} of {axis.optimizer}"
    if axis.word in ("linspace", "geomspace"):
        low, high, count = axis.numbers
        spaced = "evenly spaced" if axis.word == "linspace" else "spaced by ratio"
        return f"{name}, {thousands(count)} values from {_number(low)} to {_number(high)}, {spaced}"
    if axis.num is not None:
        return f"{name}, {thousands(axis.num)} values {_place({axis.word: axis.numbers})}"
    if axis.word == "arange":
        return f"{name}, over arange({', '.join(map(_number, axis.numbers))})"
    return f"{name}, {_listed(axis.numbers)}"


def _along(values: np.ndarray) -> str:
    """The values of an axis, of which only they themselves are known."""
    if values.dtype.kind not in "iuf" or len(values) <= _MOST_NAMES:
        return _listed(values.tolist())
    return f"{thousands(len(values))} values from {_number(values.min())} to {_number(values.max())}"


def _listed(values: Sequence[Any]) -> str:
    count = len(values)
    listed = ", ".join(_number(v) if isinstance(v, (int, float)) else shown(v) for v in values[:_MOST_NAMES])
    return f"{f'{thousands(count)} values: ' * (count > _MOST_NAMES)}{listed}{', …' * (count > _MOST_NAMES)}"


# --- what came out ---


def came_out(table: "xarray.Dataset", select: str) -> list[str]:
    """Sentences with the numbers: how many lanes met which end, the best setting, where convergence ends."""
    codes = table["outcome"].values
    ran, lanes = has_run(codes), int((codes != ABSENT).sum())
    if not ran.any():
        return ["Nothing has run yet: run the config, and make this report again."]
    if lanes == 1:
        said = [_single(table.squeeze())]
    else:
        said = [f"{_counted(int(ran.sum()), 'descent')} ran. {_shares(codes[ran])}"]
        said += _bests(table, select) + _edges(table)
    if left := lanes - int(ran.sum()):
        left = _counted(left, "lane")
        said.append(f"{left} of {thousands(lanes)} have not run yet: running the config again finishes them.")
    return said + _oddities(table, ran) + _missing(table)


def shares(table: "xarray.Dataset") -> list[tuple[str, int, float]]:
    """(outcome, lanes, share) of those that there are, in their own order."""
    counts = tally(table)
    return [(name, int(n), float(n / counts.sum())) for name, n in zip(OUTCOMES, counts, strict=True) if n]


def _single(lane: "xarray.Dataset") -> str:
    end, epochs = OUTCOMES[int(lane["outcome"])], int(lane["epochs"])
    start, final = float(lane["start_cost"]), float(lane["final_cost"])
    after = f"after {_counted(epochs, 'epoch')}"
    if not np.isfinite(start):
        return "The ball never moved: its cost is not a number where it starts, which counts as diverged."
    if is_unsettled(lane):
        rose = f"the cost rose from {_number(start)} to {_number(final)}"
        return f"{after.capitalize()} the ball counts as diverged: {rose}; {UNSETTLED}."
    if end == "diverged":
        return f"The ball ran away: it started at a cost of {_number(start)} and diverged {after}."
    if end == "converged":
        return f"The ball converged {after}: the cost went from {_number(start)} to {_number(final)}."
    verb = {
        "trapped": "is at rest above the minimum",
        "oscillating": "still swings across the valley",
        "stopped": "is at rest, though the gradient there is not zero",
    }
    if end == "stopped" and float(lane["start_gradient_norm"]) == 0:
        return f"The ball never moved: the gradient is zero where it starts, at a cost of {_number(start)}."
    said = verb.get(end, "is still on its way")
    return f"{after.capitalize()} the ball {said}: the cost went from {_number(start)} to {_number(final)}."


def _shares(codes: np.ndarray) -> str:
    counts = np.bincount(codes.ravel(), minlength=len(OUTCOMES))
    there = [(OUTCOMES[code], counts[code]) for code in np.argsort(-counts, kind="stable") if counts[code]]
    if len(there) == 1:
        name = there[0][0]
        return f"Every one {_be(name, 1)} ({MEANINGS[name]})."
    return "; ".join(f"{thousands(n)} ({100 * n / codes.size:.1f} %) {_be(name, n)}" for name, n in there) + "."


def _be(name: str, count: int) -> str:
    if name in ("converged", "diverged", "stopped"):
        return name
    return f"{'was' if count == 1 else 'were'} {'still ' * (name == 'descending')}{name}"


def _bests(table: "xarray.Dataset", select: str) -> list[str]:
    try:
        lane = best(table, select)
    except ValueError as error:
        return [f"T{str(error)[1:]}."]
    replicates = [str(d) for d in lane["outcome"].dims]
    cost = f"a final cost of {_number(typical(lane, 'final_cost'))}"
    if select == "target_epoch":
        cost = f"the {met_words(lane)} and {cost}"
    if replicates:
        cost += f", the median {of_seeds(lane)}"
    elif select != "target_epoch":
        cost += f", lowest in epoch {thousands(lane['best_epoch'])}"
    end = "soonest" if select == "target_epoch" else "lowest"
    what = f"The {end} end is reached from" if varies_start(table) else "The best setting is"
    words = setting(lane)
    said = [f"{what} {words}, with {cost}." if words != "the only one" else f"The end is {cost}."]
    rows = by_name(table)
    return said + ([_winners(rows, select)] if 1 < len(rows) <= _MOST_NAMES and not varies_start(table) else [])


def _winners(rows: dict[str, "xarray.Dataset"], select: str) -> str:
    """How good the best of each name is, the best name first."""
    found = []
    for name, table in rows.items():
        try:
            lane = best(table, select)
        except ValueError:
            found.append(([1.0], f"{name} none"))
        else:
            words = setting(lane)
            at = "" if words == "the only one" else f" at {words}"
            cost = _number(typical(lane, "final_cost"))
            if select == "target_epoch":
                soonest = float(typical(lane, select))
                cost = f"{soonest:.6g}" if np.isfinite(soonest) else f"not met, final cost {cost},"
            found.append(([*map(float, merits(lane, select))], f"{name} {cost}{at}"))
    found.sort(key=lambda one: one[0])
    what = "fewest epochs to the target" if select == "target_epoch" else "lowest final cost"
    return f"The {what} of each: {'; '.join(text for _, text in found)}."


def _edges(table: "xarray.Dataset") -> list[str]:
    """Where convergence ends along each axis, for each name."""
    rows, said = by_name(table), []
    if len(rows) > _MOST_NAMES:
        return []
    for name, part in rows.items():
        part, _ = tried(part)
        for along in map(str, part["outcome"].dims):
            if is_axis(part, along) and along != "trial":
                who = f"{name[:1].upper()}{name[1:]}, along {along}," if name else f"Along {along}, the descent"
                said.append(f"{who} {', '.join(edge_words(part, along))}.".replace(", diverges", " and diverges"))
    return said


def _oddities(table: "xarray.Dataset", ran: np.ndarray) -> list[str]:
    """What a newcomer would wonder at."""
    said = []
    senseless = int((ran & ~np.isfinite(table["start_cost"].values)).sum())
    if senseless and table["outcome"].size > 1:
        said.append(f"{_counted(senseless, 'lane')} had no finite cost even at the start.")
    still = ran & (table["start_gradient_norm"].values == 0)
    if ran.any() and still[ran].all():
        said.append("The gradient is zero wherever it started: there is no slope to follow.")
    if below := below_words(table):
        said.append(f"{below[:1].upper()}{below[1:]}.")
    if near := near_words(table):
        count = near_misses(table).size
        said.append(f"{_counted(count, 'trapped lane')} end{'s' * (count == 1)} {near}.")
    if table["outcome"].size > 1 and (count := int(is_unsettled(table).sum())):
        rose = f"{'counts' if count == 1 else 'count'} as diverged for a cost that rose over a few epochs"
        said.append(f"{_counted(count, 'lane')} {rose}: {UNSETTLED}.")
    return said


def _missing(table: "xarray.Dataset") -> list[str]:
    missing = epochs_missing(table)
    if not np.isfinite(missing).any():
        return []
    median = float(f"{np.nanmedian(missing):.2g}")
    about = thousands(median) if median < 1e9 else f"{median:.2g}"
    if table["outcome"].size == 1:
        return [f"At this pace it needs about {about} epochs more."]
    return [f"Those still descending need about {about} epochs more (median, at the pace of their last epochs)."]


def _counted(count: int, thing: str) -> str:
    return f"{thousands(count)} {thing}{'s' * (count != 1)}"


def figure(value: Any) -> str:
    """Six digits, or a dash for what there is not."""
    value = float(value)
    return "–" if np.isnan(value) else f"{value:.6g}".replace("e-0", "e-").replace("e+0", "e+")


def _number(value: Any) -> str:
    value = float(value)
    return thousands(value) if abs(value) < 1e9 and value.is_integer() else figure(value)
