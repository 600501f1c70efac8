"""What comes in from outside: no number changes on its way in, and what can't be used is refused in one sentence.

Refusals come before anything is compiled, so that each case takes a moment.
"""

import math
import re
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgd
from jaxgd import checks
from jaxgd.compare import compared, expected_best


def parabola(x):
    return x**2 + 5


def lane(learning_rate=0.1, x=4.0):
    return jaxgd.Descent(parabola, x, optax.sgd(learning_rate))


def sweep(axes=None, function=lane, **options):
    return jaxgd.sweep(function, {"learning_rate": [0.1, 0.3]} if axes is None else axes, **{"epochs": 3} | options)


def squares(params, batch=None):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def refused(error, says, call, /, *arguments, **options):
    """One sentence, which starts with this."""
    with pytest.raises(error) as raised:
        call(*arguments, **options)
    text = str(raised.value)
    assert re.match(says, text), text
    assert "\n" not in text.strip() and len(text) < 400


# Axes.

BIG = "give floats .*or enable x64"
AXES = {
    "int64": ([2**60], ValueError, f"axis 'x' holds 1152921504606846976, which int32 can't hold: {BIG}"),
    "just past": ([0, 2**31], ValueError, f"axis 'x' holds 2147483648, which int32 can't hold: {BIG}"),
    "wraps to 1": ([2**32 + 1], ValueError, f"axis 'x' holds 4294967297, which int32 can't hold: {BIG}"),
    "negative": ([0, -(2**31) - 1], ValueError, f"axis 'x' holds -2147483649, which int32 can't hold: {BIG}"),
    "start": (
        [5_000_000_000],
        ValueError,
        r"axis 'x' holds 5000000000, which int32 can't hold: give floats \(5e\+09\)",
    ),
    "array": (np.array([[1, 2**40]]), ValueError, f"axis 'x' holds 1099511627776, which int32 can't hold: {BIG}"),
    "uint64": (np.array([2**32], np.uint64), ValueError, f"axis 'x' holds 4294967296, which uint32 can't hold: {BIG}"),
    "tree": ({"a": [1.0], "b": [2**40]}, ValueError, r"axis 'x', leaf \['b'\], holds 1099511627776, which int32"),
    "objects": ([2**64], TypeError, r"axis 'x' holds whole numbers past int64 \(18446744073709551616\)"),
    "both sides": ([1, 2**63 + 1], TypeError, "axis 'x' holds whole numbers past int64"),
    "infinite": ([1.0, 1e39], ValueError, r"axis 'x' holds 1e\+39: float32 holds sizes from .* or enable x64"),
    "infinite below": (np.array([-1e300, 1.0]), ValueError, r"axis 'x' holds -1e\+300: float32 holds sizes"),
    "zero": ([1e-50, 1.0], ValueError, "axis 'x' holds 1e-50: float32 holds sizes from 1.18e-38"),
    "subnormal": ([-1.0, 0.0, 1e-40], ValueError, "axis 'x' holds 1e-40: float32 holds sizes"),
    "among vectors": (np.array([[1.0, -1.0], [1e-60, 2.0]]), ValueError, "axis 'x' holds 1e-60"),
    "masked": (np.ma.array([1.0, 2.0], mask=[False, True]), TypeError, "axis 'x' is a masked array, .* leave out"),
    "masked one": ([np.ma.array([1.0], mask=[True]), [1.0]], TypeError, "axis 'x' holds masked values"),
    "longdouble": (np.array([1.0], np.longdouble), TypeError, "axis 'x' holds .*, which JAX can't hold: give floats"),
    "complex": ([1j], TypeError, "axis 'x' holds complex128, .* real and imaginary parts as two axes"),
    "flags": ([True, False], TypeError, r"axis 'x' holds bool, .*jaxgd.each\(\[...\]\)"),
    "flags among numbers": ([True, 2], TypeError, r"axis 'x' holds bool, .*jaxgd.each\(\[...\]\)"),
    "words": (["a", "b"], TypeError, r"axis 'x' holds <U1, .*jaxgd.each\(\[...\]\)"),
    "nothing": ([None], TypeError, "axis 'x' holds object"),
    "dates": (np.array(["2020-01-01"], "M8[D]"), TypeError, r"axis 'x' holds datetime64\[D\]"),
    "records": (np.zeros(2, [("a", float)]), TypeError, "axis 'x' holds records .*: give a dict of arrays"),
    "ragged": ([[1.0], [1.0, 2.0]], ValueError, "axis 'x': its values differ in shape"),
    "lengths": ({"a": [1.0], "b": [1.0, 2.0]}, ValueError, "axis 'x': needs a list of values, all leaves of the same"),
    "one number": (0.1, ValueError, "axis 'x': needs a list of values"),
    "each within": ({"a": jaxgd.each([1, 2])}, TypeError, "axis 'x': jaxgd.each within a tree can't vary"),
}


@pytest.mark.parametrize("case", AXES)
def test_axes_that_would_change(case):
    values, error, says = AXES[case]
    refused(error, says, sweep, {"x": values})


def test_keys_of_jax_as_an_axis():
    keys = jax.random.split(jax.random.key(0), 3)
    refused(TypeError, r"axis 'x' holds keys of jax.random: give seeds, or jax.random.key_data", sweep, {"x": keys})


@pytest.mark.parametrize("values", [[2**31 - 1, -(2**31)], [3.4028235e38, -1.17549435e-38, 0.0, np.inf, np.nan]])
def test_the_ends_of_a_dtype_pass(values):
    np.testing.assert_array_equal(checks.axis("x", values), values)


def test_with_x64_they_are_exact(compiled_in_haste):
    def one(n, y):
        return jaxgd.Descent(parabola, 1.0, optax.sgd(0.1), metrics={"rest": lambda p: n % 1000, "scaled": lambda p: y})

    numbers, reals = np.array([2**60 + 7, -(2**60) - 1]), np.array([1e300, 1e-300])
    with jax.enable_x64(True):
        table = sweep({"n": numbers, "y": reals}, one)
        np.testing.assert_array_equal(table.rest[:, 0], numbers % 1000)
        np.testing.assert_array_equal(table.scaled[0], reals)
        refused(TypeError, "axis 'x' holds whole numbers past int64", sweep, {"x": [2**64]})


def test_a_named_tuple_of_arrays_is_a_tree_and_not_a_list():
    state = checks.axis("x", optax.ScaleByAdamState(count=[1, 2], mu=[1.0, 2.0], nu=[3.0, 4.0]))
    assert state.count.shape == state.mu.shape == (2,)


@pytest.mark.parametrize("axes", [None, [0.1], 0.1, "x", {1: [0.1]}])
def test_axes_that_are_no_dict(axes):
    says = r"axes = .*: must be a dict from the names of the lane's arguments to their values"
    refused(TypeError, says, jaxgd.sweep, lane, axes, epochs=3)


def test_lanes_that_are_no_function():
    refused(TypeError, "lane is a Descent; it must be a function that returns", sweep, function=lane())
    refused(TypeError, "lane is None; it must be a function that returns", sweep, function=None)


@pytest.mark.parametrize("values", ["sgd", 5, None])
def test_each_of_no_list(values):
    refused(TypeError, r"each\(.*\): takes a list of values", jaxgd.each, values)


# Numbers beside the axes.

HUGE = "float32 holds sizes from .* or enable x64"
LIMITS = [
    ("ceiling", float("nan"), "must be a number above -infinity"),
    ("ceiling", -np.inf, "must be a number above -infinity"),
    ("ceiling", True, "must be a number above -infinity"),
    ("ceiling", -1e300, HUGE),
    ("target", "a", "must be a number below infinity"),
    ("target", np.nan, "must be a number below infinity"),
    ("target", np.inf, "must be a number below infinity"),
    ("target", np.ones(2), "must be a number below infinity"),
    ("target", 1j, "must be a number below infinity"),
    ("target", 1e300, HUGE),
    ("target", -1e-300, HUGE),
    ("minimum", "x", "must be a finite number, the lowest cost"),
    ("minimum", -np.inf, "must be a finite number"),
    ("minimum", np.nan, "must be a finite number"),
    ("minimum", np.True_, "must be a finite number"),
    ("minimum", -1e300, HUGE),
    ("minimum", 10**400, "must be a finite number, .* within what float64 can hold"),
    ("tolerance", -1, "must be a finite number, 0 or more"),
    ("tolerance", np.nan, "must be a finite number, 0 or more"),
    ("tolerance", np.inf, "must be a finite number, 0 or more"),
    ("tolerance", 1e39, HUGE),
    ("epochs", 2**31, "must be a whole number, 1 or more, at most 1 000 000 000"),
    ("epochs", 1_000_000_001, "must be a whole number, 1 or more, at most 1 000 000 000"),
    ("epochs", np.True_, "must be a whole number, 1 or more"),
    ("history", 10**12, "must be a whole number, 2 or more, at most 100 000"),
    ("history", True, "must be a whole number, 2 or more"),
    ("paths", -1, "must be a whole number, 0 or more"),
    ("paths", 2.5, "must be a whole number, 0 or more"),
    ("paths", 3, "they are kept in a run's folder; give run="),
]


@pytest.mark.parametrize(("name", "value", "says"), LIMITS, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(LIMITS)])
def test_limits_that_mean_nothing(name, value, says):
    refused(ValueError, f"{name} = .*: {says}", sweep, **{name: value})


def test_limits_of_any_kind_of_number_mean_the_same():
    plain = sweep(target=6.0, ceiling=1e30, minimum=5.0, tolerance=0.25)
    for kind in (np.float32, jnp.float32, np.array):
        other = sweep(target=kind(6.0), ceiling=kind(1e30), minimum=kind(5.0), tolerance=kind(0.25))
        assert other.outcome.identical(plain.outcome)
        assert other.attrs["target"] == 6 and type(other.attrs["minimum"]) is float
    free, none = sweep(target=-np.inf, ceiling=np.inf), sweep()
    assert free.identical(none) and "select" not in free.attrs
    assert sweep(ceiling=1e300).outcome.identical(none.outcome)  # what float32 can't pass


@pytest.mark.parametrize(
    ("minima", "says"),
    [
        ([[1.0, 2.0]], r"minima has shape \[1, 2\], \[minimum, params\], but the params are 1 number"),
        (3.0, r"minima = 3.0: must be finite numbers \[minimum, params\]"),
        ([[1.0], [1.0, 2.0]], "minima = .*; its rows differ in length"),
        ([[np.nan]], "minima = .* it holds NaN or infinity"),
        (["a"], r"minima = \['a'\]: must be finite numbers"),
    ],
)
def test_minima_of_another_shape(minima, says):
    refused(ValueError, says, sweep, minima=minima)


def test_minima_of_one_param_may_be_a_list_of_numbers():
    tables = [sweep(minimum=5, minima=minima, epochs=300) for minima in ([3, 0], [[3], [0]])]
    assert tables[0].identical(tables[1]) and tables[0].minimum.values.tolist() == [1, 1]


@pytest.mark.parametrize("paired", [5, "ab", ["learning_rate", "x"], [["x", 1]], None])
def test_pairs_that_are_no_groups_of_names(paired):
    refused(TypeError, r"paired = .*: must be a list of groups of names", sweep, paired=paired)


def test_an_axis_paired_with_itself():
    refused(ValueError, "axis 'x' is paired twice", sweep, {"x": [1.0]}, paired=[["x", "x"]])


# Executors, folders, memory.


@pytest.mark.parametrize("executor", [5, "threads", ThreadPoolExecutor, object()])
def test_executors_that_take_no_work(executor):
    refused(TypeError, "executor = .*: must be a concurrent.futures.Executor", sweep, executor=executor)


@pytest.mark.parametrize("run", ["/", "", "a\0b", "/dev/null/x", "runs/" + "a" * 300])
def test_folders_that_can_not_be(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(ValueError, "run = .*: no folder can be made there", sweep, run=run)


@pytest.mark.parametrize("run", [5, b"runs", True])
def test_folders_that_are_no_path(run):
    refused(TypeError, r"run = .*: must be the path of a folder, such as", sweep, run=run)


def test_more_lanes_than_memory_holds():
    many = np.linspace(0.1, 0.2, 10**5)
    axes = {"a": many, "b": many, "c": many[:1000]}
    says = r"sweep: 1e\+13 lanes × 105 bytes, .* = 1.05 PB, and this machine has .* of memory: fewer will do"
    refused(ValueError, says, sweep, axes, lambda a, b, c: lane(a + b + c))


# Params, data, seeds.

EMPTY = r"params hold nothing to move: params.* has shape .*; at least one array must have elements"
PARAMS = {
    "int past float64": (10**400, ValueError, "params = .*: float64 holds sizes from"),
    "float": (1e300, ValueError, r"params holds 1e\+300: float32 holds sizes"),
    "float to zero": (1e-300, ValueError, "params holds 1e-300, and nothing larger"),
    "array": ({"a": np.array([1.0, -1e300])}, ValueError, r"params\['a'\] holds -1e\+300: float32 holds sizes"),
    "set beside others": ([np.array([1e300]), jnp.tanh], ValueError, r"params\[0\] holds 1e\+300: float32"),
    "longdouble": (np.longdouble(1), TypeError, "params holds .*, which JAX can't hold"),
    "masked": (np.ma.array([1.0, 2.0], mask=[0, 1]), TypeError, "params is a masked array"),
    "empty": (jnp.zeros(0), TypeError, EMPTY),
    "empty tree": ({"a": jnp.zeros((0, 3))}, TypeError, EMPTY),
    "empty beside functions": ([jnp.zeros((0, 3)), jnp.tanh], TypeError, EMPTY),
}


@pytest.mark.parametrize("case", PARAMS)
def test_params_that_would_change_or_hold_nothing(case):
    params, error, says = PARAMS[case]

    def cost(params):
        return squares([leaf for leaf in jax.tree.leaves(params) if not callable(leaf)])

    refused(error, says, jaxgd.descend, cost, params, optax.sgd(0.1), epochs=1)
    refused(error, says, sweep, function=lambda learning_rate: jaxgd.Descent(cost, params, optax.sgd(learning_rate)))
    refused(error, says, jaxgd.find_learning_rate, cost, params, optax.sgd, epochs=1)


def test_whole_numbers_past_int32_are_floats_as_params():
    for params in (2**40, np.int64(2**40), np.array(2**40), np.array([2**40]), [2**40]):
        history = jaxgd.descend(squares, params, optax.sgd(0.5), epochs=1)
        assert jax.tree.leaves(history.params)[0].ravel()[0] == 2.0**40


def test_empty_arrays_beside_others_move_nothing(tmp_path, compiled_in_haste):
    params = {"a": jnp.zeros((0, 3)), "b": jnp.ones(2)}

    def one(learning_rate):
        return jaxgd.Descent(squares, params, optax.sgd(learning_rate))

    table = sweep(function=one, run=tmp_path / "run")
    assert table["params.a"].shape == (2, 0, 3)
    np.testing.assert_allclose(table["params.b"][:, 0], [0.8**3, 0.4**3], rtol=1e-6)
    assert sweep(function=one, run=tmp_path / "run").identical(table)
    np.testing.assert_allclose(jaxgd.sharpness(squares, params), 2, rtol=1e-6)


class Other:
    """An array of another library, or a table."""

    def __array__(self, dtype=None, copy=None):
        return np.array([1.0, 1e300])


DATA = {
    "labels": ([np.ones((3, 1)), np.array([0, 1, 2**40])], ValueError, r"data\[1\] holds 1099511627776, which int32"),
    "floats": ({"x": np.array([1.0, 1e300])}, ValueError, r"data\['x'\] holds 1e\+300: float32 holds sizes"),
    "all too small": (np.array([1e-60, 0.0]), ValueError, "data holds 1e-60, and nothing larger"),
    "masked": (np.ma.array([1.0, 2.0], mask=[0, 1]), TypeError, "data is a masked array"),
    "complex infinite": (np.array([1e39 + 0j]), ValueError, r"data \(real and imaginary parts\) holds 1e\+39: float32"),
    "imaginary": ({"x": np.array([1, 1 - 1e39j])}, ValueError, r"data\['x'\] \(real .* parts\) holds -1e\+39: float32"),
    "complex zero": (np.array([1e-50 + 0j]), ValueError, r"data \(.*\) holds 1e-50, and nothing larger: float32"),
    "complex, strided": (np.array([[1, 1e39j]] * 3)[:, 1], ValueError, r"data \(.*\) holds 1e\+39: float32"),
    "long complex": (np.array([1], np.clongdouble), TypeError, "data holds complex.*, which JAX .*: give complex128"),
    "dates": (np.array(["2020-01-01"], "M8[D]"), TypeError, r"data holds datetime64\[D\], .*: give numbers"),
    "spans": ([np.ones(1), np.array([1], "m8[s]")], TypeError, r"data\[1\] holds timedelta64\[s\], .*: give numbers"),
    "words": ({"x": np.array(["a"])}, TypeError, r"data\['x'\] holds <U1, which JAX can't hold: give numbers"),
    "a word": ({"x": "a"}, TypeError, r"data\['x'\] holds <U1, which JAX can't hold: give numbers"),
    "bytes": (np.array([b"a"]), TypeError, r"data holds \|S1, which JAX can't hold: give numbers"),
    "records": (np.zeros(2, [("a", float)]), TypeError, r"data holds records \(.*\): give a dict of arrays"),
    "of another library": (Other(), ValueError, r"data holds 1e\+300: float32 holds sizes"),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_would_change(case):
    data, error, says = DATA[case]
    refused(error, says, jaxgd.descend, squares, 1.0, optax.sgd(0.1), epochs=1, data=data)


def test_complex_data_that_jax_can_hold_pass():
    values = np.array([1 + 1e-60j, np.inf - 3.4e38j, 0])  # what is small beside what is large is rounded
    checks.held_leaves("data", {"x": values, "y": jnp.ones(2) * 1j, "nothing": np.zeros(0, complex)})
    with jax.enable_x64(True):
        checks.held("data", np.array([1e39 + 1e-50j]))


GONE = "is a jax.Array that has been deleted, .*: give one that is still there"


def gone():
    array = jnp.ones(2)
    array.delete()
    return array


def test_arrays_that_have_been_deleted():
    def starting(call, /, **options):
        return call(squares, **{"params": jnp.ones(2), "optimizer": optax.sgd(0.1), "epochs": 1} | options)

    refused(ValueError, f"axis 'x' {GONE}", sweep, {"x": gone()})
    refused(ValueError, rf"axis 'x', leaf \['b'\], {GONE}", sweep, {"x": {"b": gone()}})
    refused(ValueError, f"axis 'x': one of its values {GONE}", sweep, {"x": [jnp.ones(2), gone()]})
    refused(ValueError, f"axis 'x': one of its values {GONE}", sweep, {"x": jaxgd.each([gone()])})
    refused(ValueError, rf"data\['in'\] {GONE}", starting, jaxgd.descend, data={"in": gone()})
    refused(ValueError, f"params {GONE}", starting, jaxgd.descend, params=gone())
    refused(ValueError, rf"params\['w'\] {GONE}", starting, jaxgd.descend, params={"w": gone(), "name": "a"})


def test_static_values_past_int32():
    def scaled(size, learning_rate=0.1):
        return jaxgd.Descent(lambda x: (x - size) ** 2, 1.0, optax.sgd(learning_rate))

    def held(size, learning_rate=0.1):
        return jaxgd.Descent(lambda x: (x - jnp.asarray(size)) ** 2, 1.0, optax.sgd(learning_rate))

    def constant(learning_rate):
        return jaxgd.Descent(lambda x: (x - 2**40) ** 2, 1.0, optax.sgd(learning_rate))

    def own(size):
        return jaxgd.Descent(lambda x: x**2 + np.exp(float(math.exp(size))), 1.0, optax.sgd(0.1))

    axes = {"size": jaxgd.each([1, 2**40]), "learning_rate": [0.1]}
    says = "the lane gives JAX the Python number 1099511627776, but int32 holds whole numbers from -2147483648 to 21474"
    for one in (scaled, held):
        refused(ValueError, f"at size = 1099511627776 {says}83647: make it a float, or enable x64", sweep, axes, one)
    refused(ValueError, says, sweep, None, constant)
    with pytest.raises(OverflowError, match="math range error"):
        sweep({"size": jaxgd.each([1e9])}, own)
    with jax.enable_x64(True):
        refused(
            ValueError,
            "at size = 1180591620717411303424 .* int64 holds .*: make it a float$",
            sweep,
            {"size": jaxgd.each([2**70])},
            held,
        )


def test_data_beside_whose_larger_numbers_some_are_too_small_are_rounded():
    history = jaxgd.descend(lambda w, x: w * x.sum(), 1.0, optax.sgd(0.1), epochs=1, data=np.array([1.0, 1e-60]))
    assert history.cost[0] == 1


SEEDS = [2**32, 2**40, -(2**31) - 1, 2**64, np.int64(2**40), np.uint64(2**40), np.array(2**40)]


@pytest.mark.parametrize("seed", SEEDS, ids=str)
def test_seeds_of_which_bits_would_be_dropped(seed):
    says = rf"seed {int(seed)}: jax.random takes whole numbers from -2147483648 to 4294967295 as they are, or enable"
    refused(
        ValueError, says, jaxgd.descend, squares, 1.0, optax.sgd(0.1), epochs=1, data=np.ones(4), batch_size=2, key=seed
    )


def test_seeds_with_x64_are_exact():
    with jax.enable_x64(True):
        orders = [jaxgd.keys.key_of(seed, "data order") for seed in (0, 2**32, 2**40)]
    assert len({jax.random.key_data(key).tobytes() for key in orders}) == 3


@pytest.mark.parametrize("key", ["a", 0.5, True, None])
def test_keys_are_checked_where_nothing_is_drawn(key):
    says = "a seed is a whole number or a key of jax.random"
    refused(TypeError, says, jaxgd.descend, squares, 1.0, optax.sgd(0.1), epochs=1, data=np.ones(4), key=key)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (
            {"epochs": 2**31},
            ValueError,
            "epochs = 2147483648: must be a whole number, 0 or more, at most 1 000 000 000",
        ),
        ({"metrics": [jnp.sum]}, TypeError, "metrics is a list; it must be a dict of functions"),
        ({"data": np.ones(4), "batch_size": True}, ValueError, "batch_size = True: must be a whole number from 1 to 4"),
        ({"data": np.ones(4), "batch_size": 2**70}, ValueError, "batch_size = .*: must be a whole number from 1 to 4"),
    ],
)
def test_what_else_a_descent_is_given(options, error, says):
    refused(error, says, jaxgd.descend, squares, 1.0, optax.sgd(0.1), **{"epochs": 1} | options)


def returns_three(grads, state, params=None):
    return grads, state, params


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        ((jnp.zeros_like, jnp.zeros_like, jnp.zeros_like), "optimizer is a tuple; it must be an optax"),
        (optax.GradientTransformation(1, 2), "optimizer holds an int in place of its function init or update"),
        (optax.GradientTransformation(lambda p: (), returns_three), "the optimizer's update must return two things"),
    ],
)
def test_optimizers_of_another_make(optimizer, says):
    refused(TypeError, says, jaxgd.descend, squares, 1.0, optimizer, epochs=1)


def test_a_point_that_would_change_or_is_none():
    refused(TypeError, "point = None: must be the lane's arguments by name", jaxgd.replay, lane, None, epochs=1)
    refused(ValueError, "argument 'x' holds 1099511627776, which int32", jaxgd.replay, lane, {"x": np.array(2**40)}, 1)
    assert jaxgd.replay(lane, {"x": 2**40}, 1).params[0] == 2.0**40  # Python's own go to the lane as they are


# Update rules.

ONES = jnp.ones(3)
RULES = {
    "gradient_descent": lambda x, g, rate: jaxgd.gradient_descent_update(x, g, rate),
    "gradient_ascent": lambda x, g, rate: jaxgd.gradient_ascent_update(x, g, rate),
    "momentum": lambda x, g, rate: jaxgd.momentum_update(x, x, g, rate, 0.9),
    "nesterov": lambda x, g, rate: jaxgd.nesterov_update(x, x, g, rate, 0.9),
}
STEPS = {
    "vector for a number": (2.0, ONES, 0.1, ValueError, r"gradx has shape \[3\] and .* has shape \[\]: they must be"),
    "number for a vector": (ONES, 1.0, 0.1, ValueError, r"gradx has shape \[\] and .* has shape \[3\]: they must be"),
    "leaf": ({"a": ONES}, {"a": ONES[:1]}, 0.1, ValueError, r"gradx\['a'\] has shape \[1\] and .*\['a'\] has shape \[3\]"),
    "rate": (2.0, 1.0, np.ones(2), ValueError, r"learning_rate has shape \[2\] where x has shape \[\]: it must broadcast"),
    "rate of a leaf": ({"a": 1.0}, {"a": 1.0}, {"a": ONES}, ValueError, r"learning_rate has .* where x\['a'\] has shape"),
    "rates elsewhere": ({"a": 1.0}, {"a": 1.0}, {"b": 0.1}, ValueError, r"learning_rate = \{'b': 0.1\}: must be a number"),
    "no rate": ({"a": 1.0}, {"a": 1.0}, None, ValueError, "learning_rate = None: must be a number, an array, or a tree"),
    "None": (None, 1.0, 0.1, ValueError, r"gradx has a leaf gradx, and (x|velocity) has none there"),
    "None for a leaf": ({"a": 1.0}, {"a": None}, 0.1, ValueError, r"(x|velocity) has a leaf .*\['a'\], and gradx has none"),
    "another tree": ({"a": 1.0}, [1.0], 0.1, ValueError, r"(x|velocity) has a leaf .*\['a'\], and gradx has none there"),
    "list for a tuple": ((1.0,), [1.0], 0.1, ValueError, "(x|velocity) and gradx hold their leaves in containers of diff"),
    "word": ({"a": "b"}, {"a": 1.0}, 0.1, TypeError, r"(x|velocity)\['a'\] is a str; it must be a real number"),
    "flag": (True, 1.0, 0.1, TypeError, "(x|velocity) is a bool; it must be a real number"),
    "flags": (ONES > 0, ONES, 0.1, TypeError, "(x|velocity) holds bool; it must be a real number"),
    "complex": (ONES * 1j, ONES, 0.1, TypeError, "(x|velocity) holds complex64; it must be a real number"),
    "complex grads": (ONES, ONES * 1j, 0.1, TypeError, "gradx holds complex64; it must be a real number"),
    "flag for a rate": (ONES, ONES, True, TypeError, "learning_rate is a bool; it must be a real number"),
    "whole numbers": ({"a": ONES.astype(int)}, {"a": ONES}, 0.1, TypeError, r"(x|velocity)\['a'\] is an array of int32, which"),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", STEPS)
def test_steps_that_do_not_fit(case, rule):
    x, gradx, rate, error, says = STEPS[case]
    refused(error, says, RULES[rule], x, gradx, rate)


@pytest.mark.parametrize("update", [jaxgd.momentum_update, jaxgd.nesterov_update])
def test_velocities_that_do_not_fit(update):
    refused(ValueError, r"gradx has shape \[3\] and velocity has shape \[\]", update, ONES, 0.0, ONES, 0.1, 0.9)
    refused(ValueError, r"velocity has shape \[3\] and x has shape \[\]", update, 1.0, ONES, ONES, 0.1, 0.9)
    refused(ValueError, r"momentum has shape \[3\] where velocity has shape \[\]", update, 1.0, 0.0, 1.0, 0.1, ONES)
    refused(TypeError, "momentum is a bool; it must be", update, 1.0, 0.0, 1.0, 0.1, True)
    refused(TypeError, "velocity holds complex64; it must be", update, ONES, ONES * 1j, ONES, 0.1, 0.9)


def test_whole_numbers_make_floats_and_what_is_set_aside_stays():
    assert jaxgd.gradient_descent_update(3, 1, 0.1) == 2.9
    assert jaxgd.gradient_descent_update({"a": 1.0, "f": None}, {"a": 1.0, "f": None}, 0.5) == {"a": 0.5, "f": None}


def test_shapes_are_checked_within_jit_and_vmap():
    def step(x, gradx):
        return jaxgd.gradient_descent_update(x, gradx, 0.1)

    with pytest.raises(ValueError, match=r"gradx has shape \[3\] and x has shape \[\]"):
        jax.vmap(step, (0, None))(ONES, ONES)
    with pytest.raises(ValueError, match=r"gradx has shape \[\] and x has shape \[3\]"):
        jax.jit(step)(ONES, 1.0)
    assert jax.vmap(step)(ONES, ONES).shape == (3,)


# Results.


@pytest.fixture(scope="module")
def table():
    return sweep()


@pytest.mark.parametrize("name", ["best", "best_rates", "edges", "compared", "expected_best"])
@pytest.mark.parametrize("given", [None, {}, 3, "runs/mine"])
def test_what_is_no_table(name, given):
    function = {"compared": compared, "expected_best": expected_best}.get(name) or getattr(jaxgd, name)
    arguments = (given, "learning_rate") if name == "edges" else (given,)
    refused(TypeError, f"{name} takes the result of a sweep, an xarray.Dataset with outcome", function, *arguments)


def test_a_table_without_the_figure_that_is_asked_for(table):
    refused(TypeError, "best takes the result of a sweep, .* it got a DataArray", jaxgd.best, table.outcome)
    refused(ValueError, "best: the table has no final; it has outcome, start_cost", jaxgd.best, table, "final")
    refused(ValueError, "best: the table has no best_epoch", jaxgd.best, table.drop_vars("best_epoch"))
    refused(ValueError, "compared: the table has no final", compared, table, "final")


@pytest.mark.parametrize("factor", [0.5, np.nan, np.inf, "2", True, None])
def test_factors(table, factor):
    refused(ValueError, "factor = .*: must be a finite number, 1 or more", jaxgd.best_rates, table, factor=factor)


def test_verdicts_over_what_is_not_there(table):
    refused(ValueError, "verdict: the table has no start_cost, final_cost", jaxgd.verdict, {})
    refused(ValueError, "verdict: the table has no window$", jaxgd.verdict, table.drop_vars("window"))
    refused(TypeError, "verdict takes figures by name, or the result of a sweep; it got None", jaxgd.verdict, None)
    whole = {name: values.values for name, values in table.items()} | {"final_cost": np.array([1, 2])}
    refused(ValueError, "verdict: final_cost holds int64; it must hold floats", jaxgd.verdict, whole)


@pytest.mark.parametrize(
    ("name", "value", "says"), [case for case in LIMITS if case[0] in ("minimum", "tolerance")], ids=str
)
def test_verdicts_by_limits_that_mean_nothing(table, name, value, says):
    refused(ValueError, f"{name} = .*: {says}", jaxgd.verdict, table, **{name: value})


# Ranges of learning rates.

RANGES = [
    ({"low": np.nan}, "low = nan: must be finite, above 0, and low below high"),
    ({"low": True}, "low = True: must be finite"),
    ({"high": "1"}, "high = '1': must be finite"),
    ({"high": np.inf}, "high = inf: must be finite"),
    ({"low": 2.0, "high": 1.0}, "low = 2.0, high = 1.0: must be finite, above 0, and low below high"),
    ({"low": 0}, "low = 0.0, high = 1.0: must be finite, above 0"),
    ({"low": 1e-50}, "low = 1e-50: float32 holds sizes"),
    ({"high": 1e300}, r"high = 1e\+300: float32 holds sizes"),
    ({"low": 1.0, "high": 1.0 + 1e-12}, "low = 1.0, high = .*: are the same number in float32"),
]


@pytest.mark.parametrize(("options", "says"), RANGES, ids=str)
def test_ranges_of_rates(options, says):
    options = {"low": 0.1, "high": 1.0} | options
    refused(ValueError, says, jaxgd.find_learning_rate, parabola, 4.0, optax.sgd, epochs=3, **options)
    if "above" not in says:
        refused(ValueError, says, jaxgd.critical_learning_rate, lane, options["low"], options["high"], epochs=3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"points": 3}, "points = 3: must be a whole number, 4 or more"),
        ({"points": 10**13}, "points = 10000000000000: must be a whole number, 4 or more, at most 100 000 000"),
        ({"points": True}, "points = True: must be a whole number"),
        ({"factor": np.nan}, "factor = nan: must be a finite number, 1 or more"),
        ({"epochs": 2**31}, "epochs = 2147483648: must be a whole number, 1 or more"),
        ({"target": np.nan}, "target = nan: must be a number below infinity"),
        ({"minimum": np.nan}, "minimum = nan: must be a finite number"),
    ],
)
def test_what_else_the_search_for_a_rate_is_given(options, says):
    refused(ValueError, says, jaxgd.find_learning_rate, parabola, 4.0, optax.sgd, **{"epochs": 3} | options)


def test_epochs_of_the_critical_rate():
    says = "epochs = 2147483648: must be a whole number, 1 or more"
    refused(
        ValueError,
        says,
        jaxgd.critical_learning_rate,
        lambda learning_rate: lane(learning_rate),
        0.1,
        2.0,
        epochs=2**31,
    )
