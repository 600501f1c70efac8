"""Programs: a lane with nothing hidden in closures, and what is compiled of it, known by its text."""

import functools
import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, PyTree

from jaxgd import jaxprs, numbers, rows
from jaxgd.trace import Trace
from jaxgd.trace import cut as cut_leaves

Leaves = list[Array]


class Begun(NamedTuple):
    """Lanes at their start, in leaves."""

    common: Leaves  # what their steps close over and all have in common
    constants: Leaves  # what they close over and each has its own
    params: Leaves
    state: Leaves
    shared: Leaves  # the part of the state that all have in common, as a count of epochs


class Explicit(NamedTuple):
    """A lane taken apart into pure functions of leaves.

    Lanes lie along the last axis of every array that is their own, so that whatever is done to one
    element of the params is done to a row of lanes; but along the first if large matrices of theirs are
    multiplied, which is how libraries expect them. Lanes that share data lie along the last again: so
    one product takes the data to all of them.
    """

    constants: Leaves  # what the lane's function closes over
    begin: Callable[[Leaves, PyTree, int], Begun]  # of those, and the arguments [lane, ...] of so many lanes
    step: Callable[[Leaves, Leaves, Leaves, Leaves, Leaves], tuple[Float[Array, ""], Leaves, Leaves, Leaves, Leaves]]
    """One lane's (common, constants, params, state, shared) → cost and grads there, the next params, state, shared"""
    metrics: Callable[[Leaves, Leaves, Leaves, Leaves, Leaves], Leaves]  # of the same
    params: Callable[[Leaves], Leaves]  # of their leaves, [lane, ...] too, in the shapes that the user gave them
    axis: int  # along which the lanes lie
    has_data: bool
    has_batches: bool  # several of them, so that no update follows the grads of the whole data
    on_cpu: bool
    work: float  # operations of a step, about
    of_numbers: bool  # whether all that a step does is arithmetic on the lanes' numbers
    is_shallow: bool  # whether few of its operations wait for each other, so that the next step soon can begin

    def over_lanes(
        self, function: Callable[..., Any], given: Sequence[bool], made: PyTree = True, as_one: bool = False
    ) -> Callable[..., Any]:
        """A function of one lane for many, which lie along the axis.

        Args:
          function: of one lane.
          given: for each argument whether it holds the lanes' own arrays, or what they share.
          made: the same of what it returns, or of parts of that.
          as_one: whether what it returns has so much in common that one kernel had better make it all.
        """
        if self.axis == -1:
            as_one &= self.on_cpu and self.of_numbers
            return rows.over_last(function, given, made, on_cpu=self.on_cpu, in_one_kernel=as_one)
        return jax.vmap(function, *jax.tree.map(lambda own: 0 if own else None, (list(given), made)))


def explicit(traced: Trace, platform: str) -> Explicit:
    """A lane taken apart.

    Args:
      traced: the lane.
      platform: where it is to run.
    """
    on_cpu = platform == "cpu"
    begins, step = traced.begin, traced.step
    shapes = [[leaf.shape for leaf in leaves] for leaves in traced.shapes]
    outputs = len(step.outvars)
    apart = not traced.has_data and numbers.fits(step, outputs)
    if apart:
        begins, step = numbers.taken_out(begins), numbers.of_numbers(step, outputs)
    put_together = numbers.put_together if apart else lambda leaves, shapes: leaves
    constants, params, state = (sum(map(math.prod, each)) if apart else len(each) for each in shapes)
    cut = functools.partial(cut_leaves, sizes=(constants, params, state))
    own_constants, _, own_state = cut(jaxprs.lane_dependent(begins.jaxpr, [True] * len(begins.jaxpr.invars)))
    while True:  # what a step makes the lanes' own is so from the start
        ends = jaxprs.lane_dependent(step, [*own_constants, *[True] * params, *own_state])
        after = [a or b for a, b in zip(own_state, ends[1 + 2 * params :], strict=False)]
        if after == own_state:
            break
        own_state = after
    own = [*own_constants, *[True] * params, *own_state]
    axis = 0 if jaxprs.multiplies(step, own) and not traced.has_data else -1
    of_numbers, work = jaxprs.is_of_numbers(step, own), jaxprs.work(step)
    is_shallow = jaxprs.depth(step, step.invars, step.outvars[1 + params :]) <= _SHALLOW
    carried_out = functools.partial(jax.core.eval_jaxpr, step)
    if on_cpu and not of_numbers and work > _CHEAP:
        carried_out = jaxprs.fenced(step, slice(1, 1 + params))

    def begin(closed_over, arguments, size):
        many = jax.vmap(
            lambda arguments: jax.core.eval_jaxpr(begins.jaxpr, closed_over, *jax.tree.leaves(arguments)),
            out_axes=[axis if mine else None for mine in own],
            axis_size=size,
        )
        constants, moving, state = cut(many(arguments))
        constants, common = _divided(constants, own_constants)
        return Begun(common, constants, moving, *_divided(state, own_state))

    def inputs(common, constants, moving, state, shared):
        return _joined(constants, common, own_constants), moving, _joined(state, shared, own_state)

    def step_one(*lane):
        constants, moving, state = inputs(*lane)
        cost, *rest = carried_out(constants, *moving, *state)
        grads, moved, state = cut_leaves(rest, (params, params, len(own_state)))
        return cost, grads, moved, *_divided(state, own_state)

    def metrics_of(*lane):
        constants, moving, _ = map(put_together, inputs(*lane), shapes)
        return jax.core.eval_jaxpr(traced.metrics, constants, *moving)

    def params_of(leaves):
        return put_together(leaves, shapes[1])

    kinds = (traced.has_data, traced.has_batches, on_cpu, work, of_numbers, is_shallow)
    return Explicit(begins.consts, begin, step_one, metrics_of, params_of, axis, *kinds)


_SHALLOW = 5  # operations, one after the other
_CHEAP = 100  # operations of a step, below which it is no loss to compute its grads for each array that comes of them


def _divided(leaves: Sequence[Any], own: Sequence[bool]) -> tuple[list[Any], list[Any]]:
    """The lanes' own leaves, and those that they share."""
    pairs = list(zip(leaves, own, strict=True))
    return [leaf for leaf, mine in pairs if mine], [leaf for leaf, mine in pairs if not mine]


def _joined(mine: Sequence[Any], shared: Sequence[Any], own: Sequence[bool]) -> list[Any]:
    mine, shared = iter(mine), iter(shared)
    return [next(mine if is_own else shared) for is_own in own]


# --- compiled once ---


class Program(NamedTuple):
    """A compiled function, and whether it calls Python while it runs; two of those side by side deadlock."""

    run: Callable[..., Any]
    calls_back: bool


def compiled(
    function: Callable[..., Any],
    inputs: PyTree,
    device: Any,
    *,
    alone: bool = False,
    name: str = "",
    in_a_graph: Callable[[], bool] = lambda: False,
) -> Program:
    """A function compiled for inputs of these shapes and dtypes; the same program is compiled once.

    Programs are known by their text, not by the function that made it, and what the function closes
    over becomes arguments: so a new function over the same data costs no compilation and no copy.
    A warning says where it can't run beside others, unless it is to run alone.

    Args:
      function: the function.
      inputs: shapes and dtypes of what it takes.
      device: where it runs.
      alone: whether nothing else runs while it does.
      name: what it computes, to the last bit; if a program of that name is known, the function is not even traced.
      in_a_graph: whether it had better be one graph for a GPU, which then need not ask the host at every
        turn of a loop: where the turns are few or short.
    """
    name = hashlib.sha256(name.encode()).hexdigest() if name else ""
    key, tree = _named.get(name, (None, None))
    if key in _executables:
        return Program(_runs(_kept(key), [], tree), calls_back=False)
    closed, outputs = jax.make_jaxpr(function, return_shape=True)(*inputs)

    def with_constants(constants, *leaves):
        return jax.core.eval_jaxpr(closed.jaxpr, constants, *leaves)

    calls = jaxprs.calls_back(closed.jaxpr)
    if calls and not alone:
        warnings.warn(
            "the lane calls Python while it runs: lanes run one after the other, and each calls once in every epoch, "
            "the start and the end included",
            stacklevel=2,
        )
    place = jax.sharding.SingleDeviceSharding(device)
    # Unused arguments stay: left out of the text, they would make one program of two that take different ones.
    jitted = jax.jit(with_constants, in_shardings=place, out_shardings=place, keep_unused=True)
    lowered = jitted.lower(closed.consts, *jax.tree.leaves(inputs))
    key, executable = _executable(lowered, device, in_a_graph, again=calls)
    tree = jax.tree.structure(outputs)
    if name and not calls and not closed.consts:
        for old in [old for old, (gone, _) in list(_named.items()) if gone not in _executables]:
            _named.pop(old, None)
        _named[name] = key, tree
    return Program(_runs(executable, jax.device_put(closed.consts, device), tree), calls)


def _runs(executable: Any, constants: Leaves, tree: Any) -> Callable[..., Any]:
    return lambda *inputs: tree.unflatten(executable(constants, *jax.tree.leaves(inputs)))


def compilations() -> int:
    """How many programs this process has compiled so far."""
    return _compilations


_compilations = 0
_executables: dict[tuple[str, Any, Any], Any] = {}  # the last ones, those used last at the end
_named: dict[str, tuple[tuple[str, Any, Any], Any]] = {}  # which of them, and the structure of what it returns
_KEPT = 64  # of them: each takes hundreds of memory maps, of which a process may have only so many
_EMBEDDED = 1 << 24  # characters of program text, two for each byte of a constant in it
_PASSES = "xla_disable_hlo_passes"
_UNFENCED = "cse_barrier_expander,small-while-loop-hoisting"  # take fences away; make one kernel of all in a loop
_OPTIONS = {  # XLA's own, for this program alone; not its region analysis of copies, which miscompiles with JAX 0.12
    "cpu": {
        "xla_cpu_prefer_vector_width": 512,
        "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",  # what is made is used while it is in a cache
        _PASSES: "cpu-parallel-task-assigner",  # a core has a batch to itself: no kernel is divided
    },
}
_IN_A_GRAPH = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUDNN,DYNAMIC_SLICE_FUSION,CUSTOM_CALL,CONDITIONAL,WHILE"
}


def _executable(
    lowered: Any, device: Any, in_a_graph: Callable[[], bool], again: bool
) -> tuple[tuple[str, Any, Any], Any]:
    text = lowered.as_text()
    if len(text) > _EMBEDDED:
        warnings.warn(
            "the program holds more than 8 MB of constants, from a cost that is already jitted: each new one is "
            "compiled and copied anew; leave the jit away",
            stacklevel=3,
        )
    key = (hashlib.sha256(text.encode()).hexdigest(), lowered.in_tree, device)
    if again or key not in _executables:
        options, further = _OPTIONS.get(device.platform, {}), {}
        if device.platform == "cpu" and "optimization_barrier" in text:
            further = {_PASSES: f"{options[_PASSES]},{_UNFENCED}"}
        if device.platform == "gpu" and in_a_graph():
            further = _IN_A_GRAPH
        executable = _compiled(lowered, options, further)
        while len(_executables) >= _KEPT:
            _executables.pop(next(iter(list(_executables))), None)
        _executables[key] = executable
    return key, _kept(key)


def _kept(key: tuple[str, Any, Any]) -> Any:
    """A program that is known, used last from now on."""
    _executables[key] = executable = _executables.pop(key)
    return executable


def _compiled(lowered: Any, options: dict[str, Any], further: dict[str, Any]) -> Any:
    """Compiled with further options; without them by a version of XLA that does not know them, or not so."""
    global _compilations
    _compilations += 1
    try:
        return lowered.compile(compiler_options=options | further)
    except jax.errors.JaxRuntimeError:
        if not further:
            raise
        return lowered.compile(compiler_options=options)
