"""The peers in JAX: jaxgd itself, what a user writes by hand with optax, Optimistix, and plain loops.

Each is a function (workload, most lanes) → run, read. `run` does the work and is timed; `read` takes
what it returned and gives the figures to compare, and is not. What is kept of the lanes ends up where
the host can read it; a cost trace, large as it is, may stay on the device.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgd
from experiments.throughput.workloads import COSTS, MOMENTUM, Workload, axes, flat, lanes_of

OPTIMIZERS = {
    "gradient_descent": optax.sgd,
    "momentum": lambda learning_rate, momentum=MOMENTUM: optax.sgd(learning_rate, momentum),
    "adam": optax.adam,
}


def jaxgd_sweep(workload: Workload, most: int):
    lane, grid = lane_of(workload), axes(workload)  # as the others keep the function that they have jitted, and theirs

    def run():
        return jaxgd.sweep(lane, grid, epochs=workload.epochs, target=workload.target)

    def read(table):
        numbers = {name: table[name].values.ravel() for name in ("final_cost", "epochs", "diverged_epoch")}
        leaves = [table[f"params.{i}"].values for i in range(len(workload.start))]
        return {
            "params": np.concatenate([leaf.reshape(workload.lanes, -1) for leaf in leaves], axis=1),
            "cost": np.where(np.isnan(numbers["diverged_epoch"]), numbers["final_cost"], np.nan),
            "epochs": numbers["epochs"],
        }

    return run, read


def lane_of(workload: Workload):
    """The workload as a user of jaxgd writes it: one descent, a pure function of what varies."""
    cost, start = COSTS[workload.cost](jnp), tuple(map(jnp.asarray, workload.start))
    return lambda **varies: jaxgd.Descent(cost, start, OPTIMIZERS[workload.rule](**varies))


def with_cost_trace(workload: Workload, most: int):
    """Runs every epoch; when each lane met the target is read off its costs."""
    cost = COSTS[workload.cost](jnp)

    def lane(start, varies):
        optimizer = OPTIMIZERS[workload.rule](**varies)

        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(cost)(params)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        (params, _), costs = jax.lax.scan(step, (start, optimizer.init(start)), length=workload.epochs)
        return params, costs, cost(params)

    many = _vmapped(lane, workload, most)

    def run():
        params, costs, last = many()
        return *jax.device_get((params, last)), jax.block_until_ready(costs)

    def read(raw):
        params, last, costs = raw
        return _read_off(jnp.concatenate([costs, last[:, None]], axis=1), params, workload)

    return run, read


def final_cost_only(workload: Workload, most: int):
    """Keeps nothing on the way; a lane that has met the target stands still."""
    cost = COSTS[workload.cost](jnp)

    def lane(start, varies):
        optimizer = OPTIMIZERS[workload.rule](**varies)

        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(cost)(params)
            updates, state = optimizer.update(grads, state, params)
            moved = optax.apply_updates(params, updates)
            if workload.target is not None:
                moved = jax.tree.map(partial(jnp.where, value > workload.target), moved, params)
            return (moved, state), None

        (params, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=workload.epochs)
        return params, cost(params)

    return _kept(lane, workload, most), _read_final


def optimistix(workload: Workload, most: int):
    """Optimistix's gradient descent, its tolerances at zero; with a target, its test for the end replaced by ours."""
    import optimistix

    cost = COSTS[workload.cost](jnp)

    class UntilTarget(optimistix.GradientDescent):
        def terminate(self, fn, y, args, options, state, tags):
            met = ~state.first_step & ~(state.f_info.f > workload.target)
            return met, optimistix.RESULTS.successful

    solver = optimistix.GradientDescent if workload.target is None else UntilTarget

    def lane(start, varies):
        solution = optimistix.minimise(
            lambda params, _: cost(params),
            solver(**varies, rtol=0, atol=0),
            start,
            max_steps=workload.epochs + 1,  # its first step only looks
            throw=False,
        )
        return solution.value, cost(solution.value), solution.stats["num_steps"] - 1

    def read(raw):
        *final, epochs = raw
        return _read_final(final) | {"epochs": epochs}

    return _kept(lane, workload, most), read


def python_loop(workload: Workload, most: int):
    """The lesson's own: a gradient, an update, and the cost kept, epoch by epoch, in plain Python."""
    cost, lanes = COSTS[workload.cost](jnp), lanes_of(workload, most)

    def lane(learning_rate):
        params, costs = workload.start, []
        for _ in range(workload.epochs):
            grads = jax.grad(cost)(params)
            costs.append(cost(params))
            params = jaxgd.gradient_descent_update(params, grads, learning_rate)
        return params, [*costs, cost(params)]

    def run():
        return jax.block_until_ready([lane(rate) for rate in lanes["learning_rate"]])

    def read(raw):
        params, costs = zip(*raw, strict=True)
        return _read_off(np.array(costs, np.float32), _stacked(params), workload)

    return run, read


def descend_loop(workload: Workload, most: int):
    """One `jaxgd.descend` after the other."""
    cost, lanes = COSTS[workload.cost](jnp), lanes_of(workload, most)
    start = tuple(map(jnp.asarray, workload.start))
    each = [dict(zip(lanes, values, strict=True)) for values in zip(*lanes.values(), strict=True)]

    def run():
        optimizers = (OPTIMIZERS[workload.rule](**varies) for varies in each)
        return jax.block_until_ready([jaxgd.descend(cost, start, o, epochs=workload.epochs) for o in optimizers])

    def read(histories):
        last = _stacked([jax.tree.map(lambda leaf: leaf[-1], history.params) for history in histories])
        return _read_off(np.array([history.cost for history in histories]), last, workload)

    return run, read


def _vmapped(lane, workload, most):
    program = jax.jit(jax.vmap(lane, in_axes=(None, 0)))
    arguments = jax.tree.map(jnp.asarray, (workload.start, lanes_of(workload, most)))
    return lambda: program(*arguments)


def _kept(lane, workload, most):
    many = _vmapped(lane, workload, most)
    return lambda: jax.device_get(many())


def _read_final(raw):
    params, cost = raw
    return {"params": flat(params), "cost": cost}


def _read_off(costs, params, workload):
    """When each lane ended, and at which cost, from its costs [lane, epoch]; params where nothing stops it before."""
    target = -np.inf if workload.target is None else workload.target
    ended = ~((costs > target) & (costs <= np.finfo(costs.dtype).max))
    epochs = np.where(ended.any(1), ended.argmax(1), workload.epochs)
    figures = {"cost": np.asarray(costs[np.arange(len(costs)), epochs]), "epochs": epochs}
    return figures | ({"params": flat(params)} if workload.target is None else {})


def _stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
