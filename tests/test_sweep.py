"""Sweeps: axes, what is refused, workers and devices, how often it compiles, and every optimizer of optax."""

import functools
import inspect
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from processes import said

import jaxgd
from jaxgd import engine, program
from jaxgd.names import optimizers
from jaxgd.outcome import FIGURES, OUTCOMES


def parabola(x):
    return x**2 + 5


def lane(learning_rate, x=4.0):
    return jaxgd.Descent(parabola, x, optax.sgd(learning_rate))


RATES = np.array([0.01, 0.1, 0.25, 0.5, 1.0, 1.5])


def identical(a, b):
    """The same bits in every variable."""
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)


# Axes.


def test_result_has_a_dimension_per_axis_and_every_figure():
    table = jaxgd.sweep(lane, {"learning_rate": RATES, "x": [1.0, 2.0, 3.0]}, epochs=20, history=5)
    assert table.outcome.dims == ("learning_rate", "x")
    assert dict(table.sizes) == {"learning_rate": 6, "x": 3, "epoch": 5}
    assert set(table) == {*FIGURES, "params", "cost_history"}
    np.testing.assert_array_equal(table.learning_rate, RATES)
    assert table.epoch.values.tolist() == [0, 5, 10, 15, 20]
    assert all(table[name].attrs["long_name"] for name in table)
    assert table.attrs["epochs"] == 20
    exact = (1 - 2 * RATES[:4, None]) ** 20 * np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(table.params[:4], exact, rtol=40 * 8 * np.finfo(np.float32).eps)


def test_no_axis_at_all_is_a_single_lane():
    table = jaxgd.sweep(lambda: lane(0.25), {}, epochs=2)
    assert dict(table.sizes) == {} and table.params == 1.0
    assert jaxgd.best(table).params == 1.0


def test_paired_axes_share_the_first_ones_dimension():
    starts = np.linspace(1, 2, 6)
    table = jaxgd.sweep(lane, {"learning_rate": RATES, "x": starts}, epochs=3, paired=[["learning_rate", "x"]])
    grid = jaxgd.sweep(lane, {"learning_rate": RATES, "x": starts}, epochs=3)
    assert table.outcome.dims == ("learning_rate",) and table.x.dims == ("learning_rate",)
    np.testing.assert_array_equal(table.params, np.diagonal(grid.params))


def test_each_value_has_its_own_program_and_its_own_row(compiled_in_haste):
    makers = {"sgd": optax.sgd, "adam": optax.adam}

    def one(optimizer, learning_rate, size):
        return jaxgd.Descent(lambda x: jnp.sum(x**2), jnp.ones(3)[:size].sum(), makers[optimizer](learning_rate))

    axes = {"optimizer": jaxgd.each(["sgd", "adam"]), "learning_rate": RATES, "size": jaxgd.each([1, 3])}
    table = jaxgd.sweep(one, axes, epochs=4)
    assert table.outcome.dims == ("optimizer", "learning_rate", "size")
    assert table.optimizer.values.tolist() == ["sgd", "adam"]
    for name in makers:
        for size in (1, 3):
            alone = jaxgd.sweep(functools.partial(one, name, size=size), {"learning_rate": RATES}, epochs=4)
            np.testing.assert_array_equal(table.params.sel(optimizer=name, size=size), alone.params)


def test_functions_may_be_an_axis_and_go_by_their_name(compiled_in_haste):
    def cubic(x):
        return x**3

    table = jaxgd.sweep(
        lambda cost: jaxgd.Descent(cost, 1.0, optax.sgd(0.1)), {"cost": jaxgd.each([parabola, cubic])}, epochs=1
    )
    assert table.cost.values.tolist() == ["parabola", "cubic"]
    np.testing.assert_allclose(table.params, [0.8, 0.7], rtol=1e-6)


def test_vectors_and_trees_get_an_index_and_their_values_beside_it(compiled_in_haste):
    def one(x, rates):
        return jaxgd.Descent(lambda p: jnp.sum(p**2), x, optax.sgd(rates["slow"] + rates["fast"][0]))

    starts = np.arange(6.0).reshape(3, 2)
    rates = {"slow": np.array([0.1, 0.2]), "fast": np.array([[0.1, 0.0], [0.2, 0.0]])}
    table = jaxgd.sweep(one, {"x": starts, "rates": rates}, epochs=1)
    assert table.outcome.dims == ("x", "rates") and table.params.dims == ("x", "rates", "params.0")
    assert table.x.values.tolist() == [0, 1, 2] and table.rates.values.tolist() == [0, 1]
    np.testing.assert_array_equal(table["x.value"], starts)
    np.testing.assert_array_equal(table["rates.slow"], rates["slow"])
    np.testing.assert_array_equal(table["rates.fast"], rates["fast"])
    exact = starts[:, None, :] * (1 - 2 * np.array([0.2, 0.4]))[:, None]
    np.testing.assert_allclose(table.params, exact, rtol=4 * np.finfo(np.float32).eps)


def test_params_of_a_tree_have_a_variable_per_leaf(compiled_in_haste):
    def one(rate):
        params = {"hidden": {"kernel": jnp.ones((2, 3))}, "bias": 1.0}
        return jaxgd.Descent(lambda p: jnp.sum(p["hidden"]["kernel"] ** 2) + p["bias"] ** 2, params, optax.sgd(rate))

    table = jaxgd.sweep(one, {"rate": RATES}, epochs=2)
    assert table["params.hidden.kernel"].shape == (6, 2, 3) and table["params.bias"].shape == (6,)


def test_history_shorter_than_asked_for_holds_every_epoch():
    table = jaxgd.sweep(lane, {"learning_rate": RATES}, epochs=3, history=100)
    assert table.epoch.values.tolist() == [0, 1, 2, 3]


# What is refused.


def branches(learning_rate, x=4.0):
    return lane(learning_rate if learning_rate > 0 else 0.0, x)


@pytest.mark.parametrize(
    ("function", "axes", "options", "error", "says"),
    [
        (lane, {"learning_rat": RATES}, {}, ValueError, "axis 'learning_rat': the lane has no such argument; .* did you mean 'learning_rate'"),
        (lane, {"x": RATES}, {}, ValueError, "the lane needs learning_rate: give each an axis, or a default"),
        (lane, {"learning_rate": []}, {}, ValueError, "axis 'learning_rate' is empty"),
        (lane, {"learning_rate": jaxgd.each([])}, {}, ValueError, "axis 'learning_rate' is empty"),
        (lane, {"learning_rate": 0.1}, {}, ValueError, "axis 'learning_rate': needs a list of values"),
        (lane, {"learning_rate": {"a": [1.0], "b": [1.0, 2.0]}}, {}, ValueError, "all leaves of the same length"),
        (lane, {"learning_rate": ["a", "b"]}, {}, TypeError, r"can't be traced; wrap its values in jaxgd.each"),
        (lane, {"learning_rate": [True, False]}, {}, TypeError, r"can't be traced; wrap its values in jaxgd.each"),
        (
            lane,
            {"learning_rate": RATES, "x": [1.0]},
            {"paired": [["learning_rate", "x"]]},
            ValueError,
            "paired axes differ in length: learning_rate has 6, x has 1",
        ),
        (lane, {"learning_rate": RATES}, {"paired": [["learning_rate", "y"]]}, ValueError, "paired axis 'y' is not among the axes"),
        (
            lane,
            {"learning_rate": RATES, "x": RATES},
            {"paired": [["learning_rate", "x"], ["x"]]},
            ValueError,
            "axis 'x' is paired twice",
        ),
        (lambda epochs: lane(0.1), {"epochs": RATES}, {}, ValueError, "axis 'epochs': the result has a variable of this name"),
        (lambda params: lane(0.1), {"params": RATES}, {}, ValueError, "axis 'params': the result has a variable of this name"),
        (lambda epoch: lane(0.1), {"epoch": RATES}, {}, ValueError, "axis 'epoch': the result has a variable of this name"),
        (branches, {"learning_rate": RATES}, {}, TypeError, r"branches on it in Python.*jaxgd.each\(\[...\]\)"),
        (lambda n: lane(0.1, jnp.ones(int(n)).sum()), {"n": [1, 2]}, {}, TypeError, r"jaxgd.each\(\[...\]\)"),
        (lambda learning_rate: learning_rate, {"learning_rate": RATES}, {}, TypeError, "it must return a jaxgd.Descent"),
        (lane, {"learning_rate": RATES}, {"epochs": 0}, ValueError, "epochs = 0: must be a whole number, 1 or more"),
        (lane, {"learning_rate": RATES}, {"epochs": 2.5}, ValueError, "epochs = 2.5: must be a whole number"),
        (
            lambda n: jaxgd.Descent(jnp.sum, jnp.ones(n), optax.sgd(0.1)),
            {"n": jaxgd.each([1, 2])},
            {},
            ValueError,
            "at n = 2 the params differ in shape or dtype from the first lane's",
        ),
        (lane, {"learning_rate": RATES}, {"history": 1}, ValueError, "history = 1: must be a whole number, 2 or more"),
    ],
)  # fmt: skip
def test_refusals(function, axes, options, error, says):
    with pytest.raises(error, match=says):
        jaxgd.sweep(function, axes, **{"epochs": 3} | options)


def test_optax_schedules_that_branch_on_a_traced_peak_say_so(compiled_in_haste):
    def one(peak):
        return jaxgd.Descent(parabola, 1.0, optax.sgd(optax.schedules.warmup_cosine_decay_schedule(0.0, peak, 2, 5)))

    try:
        jaxgd.sweep(one, {"peak": [0.1, 0.2]}, epochs=5)
    except TypeError as error:  # not every version of optax branches
        assert "jaxgd.each" in str(error)
    table = jaxgd.sweep(lambda peak: one(peak), {"peak": jaxgd.each([0.1, 0.2])}, epochs=5)
    assert set(table.outcome.values) == {OUTCOMES.index("descending")}


# Replay.


def test_replay_agrees_with_the_lane_it_repeats(precision):
    table = jaxgd.sweep(lane, {"learning_rate": RATES, "x": [1.0, 2.0]}, epochs=60, history=61)
    one = table.isel(learning_rate=2, x=1)
    for point in (one, {"learning_rate": 0.25, "x": 2.0}):
        history = jaxgd.replay(lane, point, epochs=60)
        np.testing.assert_allclose(history.cost, one.cost_history, rtol=60 * 4 * np.finfo(precision).eps)


def test_replay_takes_names_and_vectors_from_the_table(compiled_in_haste):
    def one(optimizer, x, size):
        maker = {"sgd": optax.sgd, "adam": optax.adam}[optimizer]
        return jaxgd.Descent(lambda p: jnp.sum(p[:size] ** 2), x, maker(0.1))

    axes = {"optimizer": jaxgd.each(["sgd", "adam"]), "x": np.arange(6.0).reshape(3, 2), "size": jaxgd.each([1, 2])}
    table = jaxgd.sweep(one, axes, epochs=3)
    point = table.sel(optimizer="adam", x=2, size=2)
    np.testing.assert_allclose(jaxgd.replay(one, point, epochs=3).params[-1], point["params"], rtol=1e-6)


def test_replay_refuses_what_is_not_one_lane_and_what_the_table_only_numbers():
    table = jaxgd.sweep(lane, {"learning_rate": RATES, "x": [1.0, 2.0]}, epochs=3)
    with pytest.raises(ValueError, match="the selection has several along x: select one"):
        jaxgd.replay(lane, table.isel(learning_rate=0), epochs=3)

    def of_tree(rates):
        return lane(rates["a"])

    table = jaxgd.sweep(of_tree, {"rates": {"a": RATES}}, epochs=3)
    with pytest.raises(ValueError, match="only numbers the trees along 'rates': give the lane's arguments by name"):
        jaxgd.replay(of_tree, table.isel(rates=0), epochs=3)


# Workers, devices, compilations.


def test_any_executor_will_do():
    axes = {"learning_rate": np.geomspace(1e-3, 2, 7001)}  # four batches
    whole = jaxgd.sweep(lane, axes, epochs=60)
    for workers in (1, 3):
        with ThreadPoolExecutor(workers) as threads:
            identical(jaxgd.sweep(lane, axes, epochs=60, executor=threads), whole)


SEVERAL_DEVICES = """
    import jax, sys
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    jax.config.update("jax_platforms", "cpu")
    import numpy as np, optax, jaxgd
    assert jax.local_device_count() == int(sys.argv[1])
    lane = lambda rate: jaxgd.Descent(lambda x: x**4 - 4 * x**2 + x, 2.0, optax.sgd(rate))
    table = jaxgd.sweep(lane, {"rate": np.geomspace(1e-4, 1, 5003)}, epochs=70)
    print({name: table[name].values.tobytes().hex() for name in sorted(table)})
"""


def test_several_devices_give_the_same_bits():
    assert said(SEVERAL_DEVICES, 1) == said(SEVERAL_DEVICES, 3) != ""


def test_one_program_for_the_same_lane_whatever_the_function_the_limits_and_the_values():
    def sweep(scale, **options):
        def fresh(learning_rate, x):
            return jaxgd.Descent(lambda x: jnp.sum(jnp.asarray([scale]) * x**2), x, optax.sgd(learning_rate))

        return jaxgd.sweep(
            fresh, **{"axes": {"learning_rate": np.linspace(0.1, 0.4, 200), "x": [1.0]}, "epochs": 10} | options
        )

    first = sweep(np.float32(1.0))
    sweep(np.float32(1.0), target=1e-6)  # a target to look out for is another program
    before = program.compilations()
    sweep(np.float32(1.0), epochs=77)
    sweep(np.float32(2.0))
    sweep(np.float32(1.0), target=1e-3)
    sweep(np.float32(1.0), ceiling=100.0, minimum=0.0)
    sweep(np.float32(1.0), axes={"learning_rate": np.linspace(0.1, 0.4, 199), "x": [1.0]})  # a remainder
    identical(sweep(np.float32(1.0)), first)
    assert program.compilations() == before


def test_a_new_function_that_does_the_same_is_not_traced_again_and_one_that_does_not_is(monkeypatch):
    traced = []
    batch = engine._batch
    monkeypatch.setattr(engine, "_batch", lambda *arguments: traced.append(1) or batch(*arguments))

    def sweep(lane):
        before = len(traced)
        return jaxgd.sweep(lane, {"rate": [0.1, 0.2]}, epochs=3), len(traced) - before

    def lane(goal, power=2, names="xy"):
        def fresh(rate):
            params = dict.fromkeys(names, 2.0)

            def cost(p):
                return sum(jnp.sum((p[name] - goal) ** power) for name in names)

            return jaxgd.Descent(cost, params, optax.sgd(rate), metrics={f"of_{names}": lambda p: p[names[0]]})

        return fresh

    ones, twos, many = np.ones(3, np.float32), np.full(3, 2, np.float32), np.ones(50, np.float32)
    first, count = sweep(lane(ones))
    assert count == 1
    again, count = sweep(lane(ones))
    assert count == 0
    identical(first, again)
    for other, goal in [(lane(twos), 2), (lane(many), 1), (lane(ones, power=4), 1), (lane(ones, names="ab"), 1)]:
        found, _ = sweep(other)
        fresh, _ = sweep(lambda rate, other=other: other(rate))
        identical(found, fresh)
        assert (found["params.a" if "params.a" in found else "params.x"] == 2).all() == (goal == 2)
    assert "params.a" in found
    assert "of_ab" in found
    for _ in range(2):  # a Python function has no text: its program is made each time
        programs = program.compilations()
        with pytest.warns(UserWarning, match="lanes run one after the other"):
            sweep(lambda rate: jaxgd.Descent(lambda x: jax.debug.callback(abs, x) or x**2, 2.0, optax.sgd(rate)))
        assert program.compilations() == programs + 1


def test_data_closed_over_are_arguments_of_the_program_and_no_part_of_it():
    def sweep(seed):
        data = jnp.asarray(np.random.default_rng(seed).normal(size=(50, 3)), jnp.float32)
        return jaxgd.sweep(
            lambda rate: jaxgd.Descent(lambda w: jnp.mean((data @ w - 1) ** 2), jnp.zeros(3), optax.sgd(rate)),
            {"rate": np.linspace(0.01, 0.1, 10)},
            epochs=5,
        )

    first, before = sweep(0), program.compilations()
    second = sweep(1)
    assert program.compilations() == before
    assert (first.final_cost != second.final_cost).any()


def test_programs_that_differ_only_in_which_data_they_use_are_not_taken_for_one_another():
    used, unused = jnp.asarray([1.0]), jnp.asarray([2.0])

    def start_cost(first, second, uses_first):
        def cost(x):
            a, b = first * 1, second * 1  # both traced, one of them for nothing
            return jnp.sum((a if uses_first else b) * x**2)

        return jaxgd.sweep(lambda rate: jaxgd.Descent(cost, 1.0, optax.sgd(rate)), {"rate": [0.1]}, epochs=1).start_cost

    assert start_cost(used, unused, uses_first=True) == 1
    assert start_cost(unused, used, uses_first=False) == 1


# Every optimizer that a config can name.

_NEEDS_MORE = ("contrib.dpsgd",)  # than a learning rate


def _rate_of(factory):
    return next(name for name in inspect.signature(factory).parameters if name.endswith("learning_rate"))


def _cost(x):
    return jnp.sum((x - 1) ** 2)


def _side_by_side(by_name):
    """Several optimizers as one, each on the params of its name, and told of nothing but its own cost."""
    each = {name: optax.with_extra_args_support(optimizer) for name, optimizer in by_name.items()}

    def init(params):
        return {name: optimizer.init(params[name]) for name, optimizer in each.items()}

    def update(grads, state, params, **_):
        told = {name: {"value": _cost(params[name]), "grad": grads[name]} for name in each}
        told = {
            name: known | {"value_fn": lambda x, obj_fn=None: _cost(x), "obj_fn": _cost} for name, known in told.items()
        }
        made = {n: o.update(grads[n], state[n], params[n], **told[n]) for n, o in each.items()}
        return {name: updates for name, (updates, _) in made.items()}, {
            name: after for name, (_, after) in made.items()
        }

    return optax.GradientTransformationExtraArgs(init, update)


_SWEEPABLE = [name for name in optimizers() if name not in _NEEDS_MORE]


@pytest.mark.parametrize("names", [_SWEEPABLE[i : i + 6] for i in range(0, len(_SWEEPABLE), 6)], ids=" ".join)
@pytest.mark.filterwarnings(
    "ignore:Specifying a key will be required", "ignore:.optimistic_adam. is deprecated"
)  # by optax
def test_optimizers_can_be_swept(names, compiled_in_haste):
    """Six share a program, for what takes long is to compile one."""

    def one(learning_rate):
        made = {name: optimizers()[name](**{_rate_of(optimizers()[name]): learning_rate}) for name in names}
        start = {name: jnp.array([2.0, -1.0]) for name in names}
        return jaxgd.Descent(lambda params: sum(map(_cost, params.values())), start, _side_by_side(made))

    table = jaxgd.sweep(one, {"learning_rate": [0.01, 0.1]}, epochs=3)
    assert (table.epochs == 3).all()
    for name in names:
        end = table[f"params.{name}"].values
        assert np.isfinite(end).all() and (end != [2.0, -1.0]).any(), name
        downhill = ((end - 1) ** 2).sum(-1) <= 5  # some feel their way with steps below the last bit
        assert (downhill != (name == "gradient_ascent")).all(), name


def test_an_optimizer_that_needs_more_than_a_rate_says_what():
    for name in _NEEDS_MORE:
        with pytest.raises(TypeError, match="missing 3 required positional arguments: 'l2_norm_clip'"):
            jaxgd.sweep(
                lambda learning_rate, name=name: jaxgd.Descent(_cost, jnp.ones(2), optimizers()[name](learning_rate)),
                {"learning_rate": [0.01, 0.1]},
                epochs=3,
            )
