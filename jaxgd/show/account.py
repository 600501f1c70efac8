"""Why a lane did what it did, in two sentences with numbers, and how to see it again."""

import shlex
from typing import TYPE_CHECKING

import numpy as np

from jaxgd.explain import Facts
from jaxgd.show.ends import UNSETTLED, is_unsettled, near_words
from jaxgd.show.style import figure_name
from jaxgd.show.tables import lost_seeds, setting, thousands
from jaxgd.table import typical

if TYPE_CHECKING:
    import xarray

_SAME = 1e-5  # how near to a bound counts as on it
_FLAT = 1e-6  # of the start's sharpness, or of 1: curvature that is none


def heading(facts: Facts) -> list[str]:
    """Which lane it is, and in what that differs from what was asked for."""
    lane = "the only lane" if facts.lanes == 1 else setting(facts.figures)
    return [f"{lane}: {facts.outcome}", *(f"({remark})" for remark in facts.remarks)]


def sentences(facts: Facts) -> list[str]:
    """How the lane ended and why; and what did better."""
    why = _why(facts)
    return [f"{_WHAT[facts.outcome](facts)}{f': {why}' if why else ''}.", f"{_instead(facts)}."]


def again(facts: Facts) -> list[str]:
    """How to run this one lane: from the command line, and in Python."""
    words = [f"--set {shlex.quote(one)}" for one in facts.settings]
    lane = {
        str(n): c.item() for n, c in facts.figures.coords.items() if c.ndim == 0 and str(n) in _asked(facts.figures)
    }
    given = "".join(f", {name}={value!r}" for name, value in lane.items())
    return [
        f"again      jaxgd run {shlex.quote(str(facts.folder / 'run.toml'))} {' '.join(words)}".rstrip(),
        "in Python  from jaxgd.run import replay",
        f"           history = replay({str(facts.folder)!r}{given})",
    ]


def _asked(figures: "xarray.Dataset") -> set[str]:
    """Coordinates that say which lane it is, each dimension once."""
    names = {str(name) for name in figures.coords if "." not in str(name) and name != "epoch"}
    return {name for name in names if "trial" not in names or name in ("optimizer", "trial") or name in ("seed",)}


# --- how it ended ---


def _converged(facts: Facts) -> str:
    lane = facts.figures
    met = float(lane["target_epoch"])
    when = f"met its target in epoch {met:.0f}" if np.isfinite(met) else f"lowest in epoch {_count(lane, 'best_epoch')}"
    start, final = float(lane["start_cost"]), float(lane["final_cost"])
    higher = ", higher than where it started" * (final > start + 1e-3 * abs(start))
    return f"It converged: {_fell(lane)}{higher}, {when}, {_crossed(facts)}{_limited_by_rounding(lane)}"


def _trapped(facts: Facts) -> str:
    lane, minimum = facts.figures, facts.figures.attrs.get("minimum")
    above = (near := near_words(lane)) and f", {near}"
    if minimum is not None and not near:
        above = f", {float(lane['final_cost']) - minimum:.4g} above the lowest there is, {minimum:.6g}"
    cost = f"where the cost is {_figure(lane, 'final_cost')}{above}"
    return f"It was trapped: the slope has vanished in {_kind(facts)} at {_place(facts)}, {cost}, {_crossed(facts)}"


def _stopped(facts: Facts) -> str:
    """That it is at rest, and why, as far as that can be known."""
    lane = facts.figures
    if not lane["start_gradient_norm"] > 0:
        return f"It never moved: its gradient is zero at the start, {_place(facts)}, {_curvature(facts)}"
    cost, slope = _figure(lane, "final_cost"), _figure(lane, "gradient_norm")
    at = (
        f"It stopped: nothing moves any more at {_place(facts)}, where the cost is {cost} and its gradient norm {slope}"
    )
    zero = "its optimizer's update is zero: a projection, weight decay, a frozen param, or a schedule that has ended"
    if facts.rate is None:
        return f"{at}; either {zero}; or the update is below the rounding of the params"
    steps = facts.rate, facts.rate * float(lane["gradient_norm"])
    if max(steps if facts.rule is None else steps[1:]) > float(lane["rounding"]):
        return f"{at}; {zero}"
    rounding = f"below the rounding of the params, {_figure(lane, 'rounding')}"
    return f"{at}; rate × gradient norm is {facts.rate:.4g} × {slope} = {steps[1]:.4g}, {rounding}"


def _curvature(facts: Facts) -> str:
    """What the Hessian says of a point whose gradient is zero."""
    lowest, scale = facts.course.lowest_curvature, _FLAT * max(1.0, abs(float(facts.course.sharpness[0])))
    if np.isnan(lowest):
        return "and nothing leads it away"
    if lowest < -scale:
        return f"where the Hessian has a negative eigenvalue, {lowest:.4g}: from beside this point it would fall"
    return "where the Hessian has no negative eigenvalue"


def _limited_by_rounding(lane: "xarray.Dataset") -> str:
    """That params can't come nearer, where that is what ends the descent."""
    eps = float(np.finfo(lane["final_cost"].dtype).eps)
    left, all_of_it = float(lane["gradient_norm"]), float(lane["start_gradient_norm"])
    if "rounding" not in lane or np.isfinite(lane["target_epoch"]) or not left > eps**0.75 * all_of_it:
        return ""
    rounding = f"the rounding of its params, {_figure(lane, 'rounding')}"
    return f"; {rounding}, lets it come no nearer (gradient norm {left:.4g})"


def _oscillating(facts: Facts) -> str:
    lane = facts.figures
    lowest = f"{_figure(lane, 'best_cost')} (in epoch {_count(lane, 'best_epoch')})"
    start = f"from {_figure(lane, 'start_cost')} at the start"
    return f"It oscillates, {_crossed(facts)} and getting no lower than {lowest}, {start}"


def _descending(facts: Facts) -> str:
    lane = facts.figures
    missing = ""
    if np.isfinite(facts.missing):
        about = thousands(float(f"{facts.missing:.2g}")) if facts.missing < 1e9 else f"{facts.missing:.2g}"
        missing = f", and at its last pace lacks about {about} epochs more"
    when = f"when the {_count(lane, 'epochs')} epochs ended"
    return f"It was still on its way {when}: {_fell(lane)}, {_crossed(facts)}{missing}"


def _diverged(facts: Facts) -> str:
    lane = facts.figures
    if not np.isfinite(lane["diverged_epoch"]):
        if not lane["gradient_norm"] > lane["start_gradient_norm"]:
            return _rose(lane)
        grew = f"from {_figure(lane, 'start_gradient_norm')} to {_figure(lane, 'gradient_norm')}"
        return f"It diverged: its gradient norm grew {grew} in {_count(lane, 'epochs')} epochs, {_crossed(facts)}"
    epoch, ceiling = _count(lane, "diverged_epoch"), lane.attrs.get("ceiling", np.inf)
    last = float(facts.course.cost[-1])
    if np.isnan(last):
        end = "was no longer a number"
    elif last == -np.inf:
        end = "fell below all numbers"
    elif ceiling < last < np.inf:
        end = f"passed the ceiling of {ceiling:.4g}"
    else:
        end = "grew past all numbers"
    if float(lane["diverged_epoch"]) == 0:
        return f"It had diverged before its first step: at the start its cost {end}"
    came = f"from {_figure(lane, 'start_cost')}, and {_figure(lane, 'final_cost')} when last seen"
    return f"It diverged: in epoch {epoch} its cost {end}, {came}, {_crossed(facts)}"


def _rose(lane: "xarray.Dataset") -> str:
    """Diverged by its cost alone."""
    rose = f"its cost rose from {_figure(lane, 'start_cost')} to {_figure(lane, 'final_cost')}"
    known = UNSETTLED if is_unsettled(lane) else "no number has left the finite ones yet"
    return f"It counts as diverged: {rose} in {_count(lane, 'epochs')} epochs, the last without a new low; {known}"


def _pending(facts: Facts) -> str:
    return "It has not been run"


def _fell(lane: "xarray.Dataset") -> str:
    return f"the cost came from {_figure(lane, 'start_cost')} to {_figure(lane, 'final_cost')}"


_WHAT = {
    "converged": _converged,
    "trapped": _trapped,
    "oscillating": _oscillating,
    "descending": _descending,
    "diverged": _diverged,
    "stopped": _stopped,
    "pending": _pending,
}


def _crossed(facts: Facts) -> str:
    times, updates = facts.course.crossings, int(facts.course.epoch[-1])
    if not times:
        return "without crossing the valley once"
    often = {1: "once", 2: "twice"}.get(times, f"{thousands(times)} times")
    return f"crossing the valley {often} in {thousands(updates)} updates"


def _kind(facts: Facts) -> str:
    steepest, lowest = float(facts.course.sharpness[-1]), facts.course.lowest_curvature
    scale = _FLAT * max(1.0, abs(float(facts.course.sharpness[0])))
    if max(abs(steepest), abs(lowest)) <= scale:
        return "a plateau"
    return "a saddle" if lowest < -scale else "a local minimum"


def _place(facts: Facts) -> str:
    values = [f"{value:.4g}" for value in facts.course.params[-1][:4]]
    more = ", …" * (facts.course.params.shape[1] > 4)
    return values[0] if facts.course.params.shape[1] == 1 else f"({', '.join(values)}{more})"


# --- why ---


def _why(facts: Facts) -> str:
    """Rate × sharpness, and what it means; empty where nothing can be said."""
    curve, where = _curve(facts)
    if facts.outcome in ("pending", "stopped") or np.isnan(curve):
        return ""
    if facts.rule is None:
        return _without_rule(facts)
    product, bound = facts.rate * curve, facts.bound
    said = f"rate × sharpness is {facts.rate:.4g} × {curve:.4g} = {product:.4g} {where}, "
    stable = product < bound * (1 - _SAME)
    if facts.outcome in ("diverged", "oscillating") and stable:
        return said + f"below {_limit(facts)}; {_along_the_way(facts)}"
    if facts.outcome == "trapped" and stable:
        return said + f"below {_limit(facts)}, so that nothing throws it out"
    if facts.outcome in ("converged", "descending", "trapped") and not stable:
        return said + f"not below {_limit(facts)}: it may come near, but not settle"
    return said + (_one_step(facts, product) if facts.rule == "gradient_descent" else _swings(facts, product))


def _curve(facts: Facts) -> tuple[float, str]:
    """The sharpness that matters, and where it is: at the minimum; or, if none is known, where the lane was."""
    if np.isfinite(facts.sharpness):
        return facts.sharpness, "there" if facts.outcome == "trapped" else "at the minimum"
    seen = np.flatnonzero(np.isfinite(facts.course.sharpness))
    if not seen.size:
        return float("nan"), ""
    first = facts.outcome == "diverged"
    return float(facts.course.sharpness[seen[0 if first else -1]]), "where it started" if first else "where it ended"


def _one_step(facts: Facts, product: float) -> str:
    """What a step of gradient descent does along the steepest direction, where the cost is much like a parabola."""
    steep = ", in the steepest direction" if facts.course.params.shape[1] > 1 else ""
    if abs(product - 1) < _SAME:
        return f"so that a step lands on the bottom{steep}"
    if product < 1:
        return f"below 1, so that a step falls short of the bottom and leaves {1 - product:.4g} of the way{steep}"
    if abs(product - 2) < 2 * _SAME:
        return f"the limit itself, so that a step lands just as far away on the other side{steep}"
    side = "below" if product < 2 else "above"
    away = f"lands {product - 1:.4g} times as far away on the other side"
    return f"{side} the limit of 2, so that a step overshoots and {away}{steep}"


def _swings(facts: Facts, product: float) -> str:
    if abs(product - facts.bound) < facts.bound * _SAME:
        return f"just {_limit(facts)}: swings neither shrink nor grow"
    if product < facts.bound:
        return f"below {_limit(facts)}: swings shrink"
    return f"above {_limit(facts)}: every swing outgrows the one before"


def _limit(facts: Facts) -> str:
    if facts.rule == "gradient_descent":
        return "the limit of 2"
    momentum = "" if facts.momentum is None else f" for momentum {facts.momentum:.4g}"
    return f"the limit of {_BOUNDS[facts.rule]} = {facts.bound:.4g}{momentum}"


_BOUNDS = {"momentum": "2 + 2β", "nesterov": "(2 + 2β)/(1 + 2β)"}


def _along_the_way(facts: Facts) -> str:
    """Where on its way the lane was where no step is stable."""
    products = facts.rate * facts.course.sharpness
    beyond = np.flatnonzero(products > facts.bound)
    if beyond.size:
        first = beyond[0]
        when = "where it started" if first == 0 else f"in epoch {facts.course.epoch[first]}"
        seen = f"the sharpness was {facts.course.sharpness[first]:.4g} and the product {products[first]:.4g}"
        return f"but {when} {seen}, beyond it"
    most = products[np.isfinite(products)].max()
    return f"and on its way it was no more than {most:.4g}, so that this limit does not explain it"


def _without_rule(facts: Facts) -> str:
    if facts.adaptive is not None and np.isfinite(facts.adaptive.limits).any():
        return _with_preconditioner(facts)
    span = _span(facts.course.sharpness)
    whose = facts.optimizer or "this optimizer"
    rate = "" if facts.rate is None else f" at a rate of {facts.rate:.4g}"
    return f"the sharpness on its way was {span}{rate}, and for {whose} theory knows no limit to compare it with"


def _with_preconditioner(facts: Facts) -> str:
    """The rate of an optimizer that preconditions, against what its own state allowed: at last, and along the way."""
    looks = np.isfinite(facts.adaptive.limits)
    curves, limits = facts.course.preconditioned[looks], facts.adaptive.limits[looks]
    beyond = np.flatnonzero(facts.rate > limits)
    side = "above" if facts.rate > limits[-1] else "not above"
    where = "at its last params" if looks[-1] else "at the last params where it is finite"
    said = (
        f"{where} the sharpness, preconditioned by its own state, is {curves[-1]:.4g}, for which theory allows rates "
    )
    said += f"up to {facts.adaptive.formula} = {limits[-1]:.4g}, and its rate of {facts.rate:.4g} is {side} that; "
    said += f"along its way the limit was {_span(limits)}, and the rate "
    if not beyond.size:
        return said + "never above it"
    return (
        said
        + f"above it in {beyond.size} of {limits.size} looks, first in epoch {facts.course.epoch[looks][beyond[0]]}"
    )


def _span(values: np.ndarray) -> str:
    seen = values[np.isfinite(values)]
    return f"{seen.min():.4g}" + ("" if np.isclose(seen.min(), seen.max(), rtol=1e-3) else f" … {seen.max():.4g}")


# --- what did better ---


def _instead(facts: Facts) -> str:
    if facts.lanes == 1:
        said = _stable_rates(facts) or "it is the only lane of its run"
        return said[0].upper() + said[1:]
    if facts.outcome == "converged":
        if facts.best is None or not (differs := _differences(facts.figures, facts.best)):
            return f"No other of the {thousands(facts.lanes)} lanes does better"
        return f"The best setting of the run by {figure_name(facts.select)} is {differs}, {_end(facts.best)}"
    if facts.nearest is not None:
        differs = _differences(facts.figures, facts.nearest)
        return f"The nearest setting that converged is {differs}, {_end(facts.nearest)}"
    if facts.diverged == facts.lanes:
        limit = _stable_rates(facts)
        return f"All {thousands(facts.lanes)} lanes of the run diverged{limit and f'; {limit}'}"
    mine = " with this optimizer" if "optimizer" in facts.figures.coords else ""
    best = ""
    if facts.best is not None:
        best = f"; the best is {_differences(facts.figures, facts.best) or 'this one'}, {_end(facts.best)}"
    return f"No lane of the run{mine} converged{best}"


def _stable_rates(facts: Facts) -> str:
    curve, where = _curve(facts)
    if facts.rule is None or not curve > 0:
        return ""
    best = ""
    if facts.rule == "gradient_descent" and facts.course.params.shape[1] == 1:
        best = f", and {1 / curve:.4g} would land on the bottom of a parabola in one step"
    return f"rates up to {facts.bound / curve:.4g} are stable {where}{best}"


def _end(lane: "xarray.Dataset") -> str:
    """How another setting ended; of several seeds, the median."""
    cost, met = (float(typical(lane, name)) for name in ("final_cost", "target_epoch"))
    when = f"lowest in epoch {float(lane['best_epoch'].median()):.0f}"
    if np.isfinite(met):
        when = f"having met the target in epoch {met:.0f}"
    lost = lost_seeds(lane)
    return f"which ended at {cost:.6g}, {when}{f', with {lost}' * bool(lost)}"


def _differences(lane: "xarray.Dataset", other: "xarray.Dataset") -> str:
    """The coordinates of another setting that differ from this lane's, in words."""
    same = [n for n in lane.coords if n in other.coords and other[n].ndim == 0 and (other[n] == lane[n]).all()]
    return "" if len(same) == len(lane.coords) else setting(other.drop_vars(same))


def _figure(lane: "xarray.Dataset", name: str) -> str:
    return f"{float(lane[name]):.6g}"


def _count(lane: "xarray.Dataset", name: str) -> str:
    return thousands(float(lane[name]))
