"""What is known of the lanes of a batch while they descend, and how their epochs divide into segments."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxgd.outcome import Goal
from jaxgd.program import Explicit, Leaves

SEGMENT = 50  # epochs between two looks at who has ended; also the longest window
SEGMENT_OF_BATCHES = 10  # the same, where each epoch makes several updates


class Limits(NamedTuple):
    """What ends a lane, and what it is judged by; runtime values, so that changing them compiles nothing."""

    epochs: Int[Array, ""]
    target: Float[Array, ""]
    ceiling: Float[Array, ""]
    records: Int[Array, " record"]  # epochs whose cost is kept
    goal: Goal


class Begin(NamedTuple):
    """What a segment can be run again from."""

    first: Int[Array, " lane"]
    params: Leaves
    state: Leaves
    shared: Leaves  # where each lane has its own first epoch, each its own too
    best_cost: Float[Array, " lane"]
    since_low: Int[Array, " lane"]


class Last(NamedTuple):
    """How a lane that has ended did so."""

    begin: Begin  # of its last segment
    best_cost: Float[Array, " lane"]  # after it, by which it was found to have ended
    repeats: Bool[Array, " lane"]  # it would do for ever what it did in that segment


class Lanes(NamedTuple):
    """All that is known of the lanes of a batch, or of a block of it; they lie along one axis of every array."""

    constants: Leaves
    params: Leaves
    state: Leaves
    best_cost: Float[Array, " lane"]
    since_low: Int[Array, " lane"]  # epochs since that was first seen
    last: Last | None  # without data
    epochs: Int[Array, " lane"]  # made so far by a lane that goes on, NEVER once it has ended
    place: Int[Array, " lane"]  # in the batch as it came
    history: Float[Array, "record lane"]
    figures: dict[str, Any] | None  # with data: of those that have ended


def evaluated(
    one: Explicit, lanes: Lanes, shared: Leaves, is_each: bool = False
) -> tuple[Float[Array, " lane"], Leaves]:
    """Cost and grads where the lanes are; what they share is one for all, or each lane's own."""

    def evaluate(constants, params, state, shared):
        return one.step(constants, params, state, shared)[:2]

    many = one.over_lanes(evaluate, (True, True, True, is_each), as_one=True)
    return many(lanes.constants, lanes.params, lanes.state, shared)


def costs_of(one: Explicit, lanes: Lanes, shared: Leaves) -> Float[Array, " lane"]:
    """Cost where the lanes are."""
    many = one.over_lanes(lambda *lane: one.step(*lane)[0], (True, True, True, False))
    return many(lanes.constants, lanes.params, lanes.state, shared)


def within(cost, limits: Limits):
    """Whether a lane of this cost goes on; False for NaN and −inf too."""
    return (cost > limits.target) & (cost <= limits.ceiling)


# --- segments ---


def length_of(one: Explicit) -> int:
    """Epochs of a segment."""
    return SEGMENT_OF_BATCHES if one.has_batches else SEGMENT


def segment_end(one: Explicit, first, limits: Limits):
    """Where the segment that begins at `first` ends; the short segment, if any, comes first."""
    return first + 1 + (limits.epochs - first - 1) % length_of(one)


def over_segment(epochs: Callable[[Any, Any, int], Any], one: Explicit, first, last, begin: Any) -> Any:
    """What comes of a segment: `epochs` makes some of its epochs, from one on, of what was before.

    An accelerator waits for its host at each turn of a loop whose length it doesn't know.
    """
    count, whole = last - first, length_of(one)
    if one.on_cpu:
        return looped(epochs, one, first, count, begin, one.is_shallow)
    return lax.cond(
        count == whole,
        lambda: looped(epochs, one, first, whole, begin),
        lambda: looped(epochs, one, first, count, begin),
    )


def looped(
    epochs: Callable[[Any, Any, int], Any], one: Explicit, first, count, begin: Any, is_shallow: bool = False
) -> Any:
    """What comes of so many epochs from `first` on, a number that is known or not.

    `is_shallow` says whether an epoch here takes no more than a step that is.
    """
    at_once, kernels = _pace(one, is_shallow)
    turns = count // (at_once * kernels)
    several = jax.jit(lambda now, carry: epochs(now, carry, at_once))  # traced once

    def one_turn(turn, carry):
        for index in range(kernels):
            carry = several(first + at_once * (turn * kernels + index), carry)
        return carry

    carry = lax.fori_loop(0, turns, one_turn, begin)
    done = turns * (at_once * kernels)
    if isinstance(count, int) and done == count:
        return carry
    return lax.fori_loop(first + done, first + count, lambda now, carry: epochs(now, carry, 1), carry)


def _pace(one: Explicit, is_shallow: bool) -> tuple[int, int]:
    """How many epochs to make at once, and how often in one turn of a loop.

    On a CPU two at once save copies; more would make it wait, for each depends on the one before, unless
    it soon has what it needs of that. Where they are one kernel, a turn has several: with but one it
    would have to copy all that this makes. An accelerator has enough lanes not to wait, and to launch a
    kernel takes it longer than several cheap epochs; of dear ones a program takes the longer to compile.
    """
    if one.on_cpu:
        return ((5, 2) if is_shallow else (2, 5)) if one.of_numbers else (2, 1)
    return next(at_once for at_once, work in _AT_ONCE.items() if one.work <= work), 1


_AT_ONCE = {10: 100, 5: 5_000, 1: math.inf}  # epochs on an accelerator, of at most so many operations each
