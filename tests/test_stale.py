"""Whatever a lane reads counts at the next call: no cache knows a lane, an array or a module by its identity alone."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from command import command
from jax import lax

import jaxgd
from jaxgd import afresh, identity, paths, plan, program, run, store, trace, workers
from jaxgd.sweep import batch, in_memory

pytestmark = pytest.mark.usefixtures("compiled_in_haste")
RATES = {"learning_rate": np.float32([0.01, 0.1])}
scale = 1.0


def valley(factor):
    """The final costs that 5 epochs on factor·Σ(x − 1)² give, by plain JAX."""
    x, found = np.zeros((2, 2)), RATES["learning_rate"].astype(float)[:, None]
    for _ in range(5):
        x = x - found * 2 * factor * (x - 1)
    return factor * ((x - 1) ** 2).sum(axis=1)


def descent(cost, learning_rate, start=None):
    return jaxgd.Descent(cost, jnp.zeros(2) if start is None else start, optax.sgd(learning_rate))


class Holder:
    """A lane in several ways to read a number that changes."""

    def __init__(self):
        self.array, self.factor = np.ones((), np.float32), 1.0
        self.vector, self.model = np.ones(2, np.float32), SimpleNamespace(factor=1.0)

    def change(self):
        global scale
        scale, self.factor, self.model.factor = 3.0, 3.0, 3.0
        self.array[...] = 3
        self.vector[...] = 3
        _scanned.__defaults__ = (3.0,)


def _scanned(total, x, factor=1.0):
    return total + factor * (x - 1) ** 2, None


def _through_scan(x):
    return lax.scan(_scanned, jnp.float32(0), x)[0]


def _scanned_global(total, x):
    return total + scale * (x - 1) ** 2, None


@jax.jit
def _jitted(x):
    return scale * jnp.sum((x - 1) ** 2)


@jax.jit
def _inner(x):
    return scale * x


@partial(jax.jit, inline=True)
def _inlined(x):
    return scale * x


def _above(d):
    return scale * d**2


def _below(d):
    return scale * d**2


class _Scaled:
    """A callable object, of which JAX knows no file."""

    def __call__(self, x, *more):
        return (x + scale * (more[0] - 1) ** 2, None) if more else scale * x


_object = _Scaled()
_jitted_object = jax.jit(_object)
_scheduled = optax.sgd(lambda count: 0.05 * scale)
_jitted_update = jax.jit(_scheduled.update)


WAYS = {
    "global": lambda held: lambda x: scale * jnp.sum((x - 1) ** 2),
    "attribute": lambda held: lambda x: held.factor * jnp.sum((x - 1) ** 2),
    "attribute of a model": lambda held: lambda x: held.model.factor * jnp.sum((x - 1) ** 2),
    "array edited in place": lambda held: lambda x: jnp.sum(held.vector * (x - 1) ** 2),
    "number of an array edited in place": lambda held: lambda x: held.array * jnp.sum((x - 1) ** 2),
    "body of a scan": lambda held: lambda x: lax.scan(_scanned_global, jnp.float32(0), x)[0],
    "default argument": lambda held: _through_scan,
    "jitted cost": lambda held: _jitted,
    "jitted function within": lambda held: lambda x: _inner(jnp.sum((x - 1) ** 2)),
    "jitted function, inlined": lambda held: lambda x: _inlined(jnp.sum((x - 1) ** 2)),
    "jitted object": lambda held: lambda x: _jitted_object(jnp.sum((x - 1) ** 2)),
    "object as the body of a scan": lambda held: lambda x: lax.scan(_object, jnp.float32(0), x)[0],
    "branches, vmapped": lambda held: lambda x: jax.vmap(lambda d: lax.cond(d > 0, _above, _below, d))(x - 1).sum(),
    "pieces": lambda held: lambda x: jnp.piecewise(x - 1, [x > 1, x <= 1], [_above, _below]).sum(),
}


@pytest.fixture
def held():
    global scale
    yield Holder()
    scale = 1.0
    _scanned.__defaults__ = (1.0,)


@pytest.mark.parametrize("way", WAYS)
def test_what_a_lane_reads_counts_at_the_next_trace(held, way):
    cost = WAYS[way](held)

    def start_cost():
        one = plan.planned(lambda learning_rate: descent(cost, learning_rate), RATES, epochs=5).trace()
        opened = one.opened({"learning_rate": 0.1})
        return float(opened.cost(opened.params)), float(opened.step(opened.params, opened.init(opened.params))[0])

    assert start_cost() == (2, 2)
    held.change()
    assert start_cost() == (6, 6)


@pytest.mark.parametrize("way", ["global", "array edited in place", "body of a scan", "jitted object"])
def test_what_a_lane_reads_counts_at_the_next_sweep(held, way):
    cost = WAYS[way](held)

    def lane(learning_rate):
        return descent(cost, learning_rate)

    np.testing.assert_allclose(jaxgd.sweep(lane, RATES, epochs=5).final_cost, valley(1), rtol=1e-5)
    held.change()
    np.testing.assert_allclose(jaxgd.sweep(lane, RATES, epochs=5).final_cost, valley(3), rtol=1e-4)


@pytest.mark.parametrize("way", ["global", "array edited in place", "jitted cost"])
def test_what_a_lane_reads_counts_for_a_folder_too(held, way, tmp_path):
    cost = WAYS[way](held)

    def lane(learning_rate):
        return descent(cost, learning_rate)

    jaxgd.sweep(lane, RATES, epochs=5, run=tmp_path / "old")
    held.change()
    kept = jaxgd.sweep(lane, RATES, epochs=5, run=tmp_path / "new")
    np.testing.assert_allclose(kept.final_cost, valley(3), rtol=1e-4)
    found = store.opened_paths(tmp_path / "new")
    np.testing.assert_allclose(found["cost"].values[:, -1], valley(3), rtol=1e-4)
    with pytest.raises(store.StoreError, match="another run"):
        jaxgd.sweep(lane, RATES, epochs=5, run=tmp_path / "old")


def test_each_call_that_searches_or_replays_reads_anew(held):
    def cost(x):
        return held.factor * jnp.sum((x - 1) ** 2)

    def lane(learning_rate):
        return descent(cost, learning_rate)

    def edges():
        found = jaxgd.find_learning_rate(cost, jnp.zeros(2), optax.sgd, epochs=50, low=0.01, high=10, points=32)
        critical = jaxgd.critical_learning_rate(lane, 0.01, 10, epochs=20)
        return found.edge, critical.high, jaxgd.sharpness(cost, jnp.zeros(2))

    before = edges()
    assert jaxgd.replay(lane, {"learning_rate": 0.1}, epochs=5).cost[-1] == pytest.approx(valley(1)[1], rel=1e-5)
    held.change()
    np.testing.assert_allclose(np.array(before) / edges(), [3, 3, 1 / 3], rtol=0.1)
    assert jaxgd.replay(lane, {"learning_rate": 0.1}, epochs=5).cost[-1] == pytest.approx(valley(3)[1], rel=1e-4)
    surface = [jaxgd.show.landscape(cost, jaxgd.descend(cost, jnp.zeros(2), optax.sgd(0.1), epochs=3))]
    held.factor = 1.0
    surface += [jaxgd.show.landscape(cost, jaxgd.descend(cost, jnp.zeros(2), optax.sgd(0.1), epochs=3))]
    assert surface[0]["cost"].values.max() > 2 * surface[1]["cost"].values.max()


@pytest.mark.parametrize("way", ["start", "schedule", "update", "metric", "batches"])
def test_a_replay_reads_what_jitted_functions_read(held, way):
    rows = np.arange(8, dtype=np.float32), 2 * np.arange(8, dtype=np.float32)

    def ends(jitted):
        """Of a replay, with a function that JAX has traced before, or with one that it has not."""
        function = _JITTED[way] if jitted else _JITTED[way].__wrapped__
        lanes = {
            "start": lambda rate: descent(_flat, rate, function(jnp.ones(2))),
            "schedule": lambda rate: jaxgd.Descent(_flat, jnp.zeros(2), optax.sgd(function)),
            "update": lambda rate: jaxgd.Descent(
                _flat, jnp.zeros(2), optax.GradientTransformation(_scheduled.init, function)
            ),
            "metric": lambda rate: jaxgd.Descent(_flat, jnp.zeros(2), optax.sgd(rate), metrics={"m": function}),
            "batches": lambda rate: jaxgd.Descent(function, 0.0, optax.sgd(rate / 10), data=rows, batch_size=2),
        }
        history = jaxgd.replay(lanes[way], {"rate": np.float32(0.1)}, epochs=3)
        return [history.cost[0], history.cost[-1], *(m[-1] for m in history.metrics.values())]

    before = ends(jitted=True)
    np.testing.assert_allclose(before, ends(jitted=False), rtol=1e-5)
    held.change()
    after = ends(jitted=True)
    np.testing.assert_allclose(after, ends(jitted=False), rtol=1e-5)
    assert max(abs(a / b - 1) for a, b in zip(after, before, strict=True)) > 0.1


def _flat(x):
    return jnp.sum((x - 1) ** 2)


_JITTED = {
    "start": jax.jit(lambda x: 2 * scale * x),
    "schedule": jax.jit(lambda count: 0.05 * scale),
    "update": _jitted_update,
    "metric": jax.jit(lambda x: scale * x.sum()),
    "batches": jax.jit(lambda w, batch: scale * jnp.mean((w * batch[0] - batch[1]) ** 2)),
}


def test_traces_of_earlier_calls_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(afresh, "_MOST_TRACES", 200)
    traces = afresh._cache_of_traces()
    for _ in range(12):
        jaxgd.sweep(lambda learning_rate: descent(lambda x: jnp.linalg.norm(x - 1), learning_rate), RATES, epochs=1)
        assert traces.cache_info().currsize < 400


def test_a_trace_that_fails_leaves_no_more_traces_than_one_that_does_not(monkeypatch):
    limited = []
    monkeypatch.setattr(afresh, "_limit_traces", lambda: limited.append(True))
    with pytest.raises(RuntimeError, match="of the lane"), afresh.new_context():
        raise RuntimeError("of the lane")
    assert limited == [True]


def test_data_that_is_edited_in_place_is_read_at_the_call():
    rows = np.arange(8, dtype=np.float32), np.arange(8, dtype=np.float32)

    def lane(learning_rate):
        return jaxgd.Descent(lambda w, b: jnp.mean((w * b[0] - b[1]) ** 2), 0.0, optax.sgd(learning_rate), data=rows)

    first = jaxgd.sweep(lane, RATES, epochs=3).start_cost.values
    rows[1][...] *= 2
    np.testing.assert_allclose(jaxgd.sweep(lane, RATES, epochs=3).start_cost, 4 * first)


def test_a_folder_is_of_one_trace_whatever_changes_between_its_steps(held, tmp_path, monkeypatch):
    """Fingerprint, statistics, paths and surface agree, though the lane changes before each of them is made."""

    def lane(learning_rate):
        return descent(lambda x: held.factor * scale * jnp.sum(held.vector * (x - 1) ** 2), learning_rate)

    plain = jaxgd.sweep(lane, RATES, epochs=5, run=tmp_path / "plain")
    known_as = store.read_manifest(tmp_path / "plain")["fingerprint"]
    calls = []

    def disturbed(module, name):
        function = getattr(module, name)

        def wrapped(*given, **named):
            calls.append(name)
            held.factor *= 1.5
            held.vector[...] += 1
            return function(*given, **named)

        monkeypatch.setattr(module, name, wrapped)

    steps = [(plan, "fingerprint"), (workers, "ready"), (workers, "carried_out"), (paths, "keep"), (paths, "replayed")]
    for module, name in [*steps, (paths.landscape, "of_run"), (store, "opened")]:
        disturbed(module, name)
    table = jaxgd.sweep(lane, RATES, epochs=5, run=tmp_path / "disturbed")
    assert {*calls} == {"fingerprint", "ready", "carried_out", "keep", "replayed", "of_run", "opened"}
    np.testing.assert_array_equal(table.final_cost, plain.final_cost)
    assert store.read_manifest(tmp_path / "disturbed")["fingerprint"] == known_as
    for opened in (store.opened_paths, store.opened_surface):
        one, other = opened(tmp_path / "plain"), opened(tmp_path / "disturbed")
        assert one.equals(other)


CONFIG = """
[cost]
function = "mine:cost"
[start]
x = 3.0
[optimizer]
name = "gradient_descent"
learning_rate = 0.1
[run]
epochs = 3
"""


def test_a_configs_own_code_and_its_helpers_are_read_from_their_files_each_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("from helper import factor\ndef cost(x): return factor * x**2\n")
    Path("helper.py").write_text("factor = 1.0\n")
    Path("mine.toml").write_text(CONFIG)

    def start_cost():
        prepared = run.prepared(Path("mine.toml"))
        return in_memory(prepared.plan).start_cost.item(), prepared.fingerprint

    first = start_cost()
    Path("helper.py").write_text("factor = 3.0\n")  # as long, and within the same second
    second = start_cost()
    assert (first[0], second[0]) == (9, 27) and first[1] != second[1]
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.py").write_text(Path("mine.py").read_text())
    (other / "helper.py").write_text("factor = 5.0\n")  # another module of the same name
    (other / "mine.toml").write_text(CONFIG)
    assert in_memory(run.prepared(other / "mine.toml").plan).start_cost.item() == 45


def test_a_finished_run_tells_when_its_code_has_changed_since(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def cost(x): return x**2\n")
    Path("mine.toml").write_text(CONFIG)
    assert command("run", "mine.toml").code == 0
    (folder,) = Path("runs").glob("mine-*")
    Path("mine.py").write_text("def cost(x): return x**4\n")
    with pytest.raises(run.ConfigError, match="changed"):
        run.replay(folder)


def test_nothing_is_computed_by_changed_code_beside_what_a_run_stored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("import helper\ndef cost(x): return helper.factor * (x - 1)**2\n")
    Path("helper.py").write_text("factor = 1.0\n")
    Path("mine.toml").write_text(CONFIG + "[sweep]\noptimizer.learning_rate = { linspace = [0.1, 0.6, 6] }\n")
    assert command("run", "mine.toml").code == 0
    (folder,) = Path("runs").glob("mine-*")
    stored = command("best", folder).out
    reads = [("explain", folder, "learning_rate=0.5"), ("zoom", folder, "--around", "best", "--toml")]
    assert [command(*words).code for words in reads] == [0, 0]
    Path("helper.py").write_text("factor = 3.0\n")
    for words in [*reads, ("zoom", folder, "--around", "best")]:
        answer = command(*words)
        assert answer.code == 2 and not answer.out, words
        assert answer.err.startswith(f"jaxgd: {folder}: the code, its data or a package has changed since this run, so")
        assert answer.err.endswith("; run the config again\n") and answer.err.count("\n") == 1
    assert [*Path("runs").glob("mine-*")] == [folder]  # no closer look has begun
    monkeypatch.setattr("jaxgd.lane.planned", None)  # what only reads needs no code
    assert command("best", folder).out == stored
    for words in (("best", folder, "--toml"), ("compare", folder), ("report", folder), ("animate", folder)):
        answer = command(*words)
        assert answer.code == 0, answer.err


# Programs are known by what they compute.


@pytest.mark.parametrize("threefry", [True, False])
def test_a_setting_of_jax_that_changes_numbers_makes_another_program(threefry):
    def cost(x):
        return jnp.sum((x - jax.random.normal(jax.random.fold_in(jax.random.key(3), 1), (2,))) ** 2)

    with jax.threefry_partitionable(threefry):
        table = jaxgd.sweep(lambda learning_rate: descent(cost, learning_rate), RATES, epochs=1)
        np.testing.assert_allclose(table.start_cost, [jax.jit(cost)(jnp.zeros(2))] * 2, rtol=1e-6)


def test_x64_may_change_between_calls():
    def lane(learning_rate):
        return descent(lambda x: jnp.sum((x - 1 / 3) ** 2), learning_rate, start=(0.0, 1.0)[0])

    for wide in (False, True, False):
        with jax.enable_x64(wide):
            table = jaxgd.sweep(lane, RATES, epochs=2)
            assert table.final_cost.dtype == (np.float64 if wide else np.float32)
            assert table.start_cost.values[0] == pytest.approx(1 / 9, rel=1e-15 if wide else 1e-6)


def test_texts_differ_where_numbers_would():
    def text(function):
        return identity.text_of(jax.make_jaxpr(function)(jnp.float32(1)).jaxpr)

    near = np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(1))
    assert text(lambda x: x * near[0]) == text(lambda x: x * near[0]) != text(lambda x: x * near[1])
    assert text(lambda x: x * 0.0) != text(lambda x: x * -0.0)
    assert text(lambda x: x.astype(jnp.bfloat16) * jnp.bfloat16(1.0)) != text(
        lambda x: x.astype(jnp.bfloat16) * jnp.bfloat16(1.0078125)
    )
    large = np.zeros(2000, np.float32)
    other = large.copy()
    other[1000] = 1
    of = [identity.text_of(jax.make_jaxpr(jax.jit(lambda x, a=a: x * a))(jnp.float32(1)).jaxpr) for a in (large, other)]
    assert of[0] != of[1]
    assert not text(jax.nn.relu).is_opaque
    assert text(lambda x: jax.pure_callback(np.sin, x, x)).is_opaque


def test_programs_of_the_same_text_take_the_constants_of_their_own_lane():
    def table(values):
        array = jnp.asarray(values)
        return jaxgd.sweep(
            lambda learning_rate: descent(lambda x: jnp.sum((x - array) ** 2), learning_rate), RATES, epochs=1
        )

    assert table([1.0, 2.0]).start_cost.values[0] == 5
    before = program.compilations()
    assert table([3.0, 4.0]).start_cost.values[0] == 25
    assert program.compilations() == before


# Elsewhere.


def module_lane(learning_rate):
    return descent(lambda x: scale * jnp.sum((x - 1) ** 2), learning_rate)


def test_a_worker_that_reads_something_else_refuses(held):
    here = plan.planned(module_lane, RATES, epochs=5)
    box = here.boxes()[0]
    sent = pickle.dumps(plan.alone(here, box))
    np.testing.assert_allclose(batch(*pickle.loads(sent))["final_cost"], valley(1), rtol=1e-5)
    held.change()  # the trace that the worker has is of the number as it was when the plan was made
    np.testing.assert_allclose(batch(*pickle.loads(sent))["final_cost"], valley(1), rtol=1e-5)
    plan._received.clear()
    with pytest.raises(RuntimeError, match="computes something else"):
        batch(*pickle.loads(sent))


def test_threads_of_the_callers_own_get_the_trace_itself(held):
    with ThreadPoolExecutor(2) as threads:
        table = jaxgd.sweep(module_lane, RATES, epochs=5, executor=threads)
        held.change()
        again = jaxgd.sweep(module_lane, RATES, epochs=5, executor=threads)
    np.testing.assert_allclose(table.final_cost, valley(1), rtol=1e-5)
    np.testing.assert_allclose(again.final_cost, valley(3), rtol=1e-4)


# Inside of transformations.


def _table(axes, factor=1.0):
    return jaxgd.sweep(lambda learning_rate: descent(lambda x: factor * jnp.sum(x), learning_rate), axes, epochs=2)


INSIDE = {
    "jit": lambda: jax.jit(lambda: jnp.asarray(_table(RATES).final_cost.values))(),
    "jit, its axis": lambda: jax.jit(lambda r: _table({"learning_rate": r}).final_cost.values)(jnp.ones(2)),
    "vmap, its axis": lambda: jax.vmap(lambda r: _table({"learning_rate": r}).final_cost.values)(jnp.ones((2, 2))),
    "vmap, its cost": lambda: jax.vmap(lambda f: _table(RATES, f).final_cost.values)(jnp.ones(2)),
    "grad": lambda: jax.grad(lambda f: _table(RATES, f).final_cost.values.sum())(1.0),
    "another lane": lambda: jaxgd.sweep(
        lambda learning_rate: descent(lambda x: jnp.sum(x) * float(_table(RATES).final_cost[0]), learning_rate),
        RATES,
        epochs=2,
    ),
    "find": lambda: jax.jit(
        lambda low: jaxgd.find_learning_rate(jnp.sum, jnp.ones(2), optax.sgd, epochs=2, low=low).best
    )(0.1),
}


@pytest.mark.parametrize("way", INSIDE)
def test_a_sweep_inside_a_transformation_says_what_to_do_instead_and_leaves_nothing(way):
    before = _table(RATES)
    with pytest.raises(trace.UnderTransformation, match=r"jax\.jit\(jax\.vmap\(.*jaxgd\.descend"):
        INSIDE[way]()
    assert _table(RATES).equals(before)


# Callbacks.

CALLS = {
    "debug.callback": lambda note, x: jax.debug.callback(note, x),
    "io_callback": lambda note, x: jax.experimental.io_callback(note, None, x),
}


@pytest.mark.filterwarnings("ignore:the lane calls Python", "ignore:the cost calls back")
@pytest.mark.parametrize("way", CALLS)
def test_callbacks_are_called_for_real_lanes_and_epochs_alone(way, tmp_path):
    seen = []

    def cost(x, calls=True):
        if calls:
            CALLS[way](lambda x: seen.append(float(x)), lax.stop_gradient(x))
        return (x - 3) ** 2

    def lane(learning_rate, calls=True):
        return jaxgd.Descent(lambda x: cost(x, calls), 0.0, optax.adam(learning_rate))

    table = jaxgd.sweep(lane, {"learning_rate": [0.1, 0.2]}, epochs=3)
    paths = [
        jaxgd.replay(lambda learning_rate: lane(learning_rate, False), {"learning_rate": r}, epochs=3)
        for r in (0.1, 0.2)
    ]
    np.testing.assert_allclose(sorted(seen), np.sort(np.concatenate([p.params for p in paths])), rtol=1e-6)
    seen.clear()
    axes = {"learning_rate": np.float32([1e-3, 0.1, 0.5, 100])}
    for limits in ({}, {"target": 1.0}, {"ceiling": 20.0}):
        loud = jaxgd.sweep(lane, axes, epochs=60, history=5, **limits)
        quiet = jaxgd.sweep(lambda learning_rate: lane(learning_rate, False), axes, epochs=60, history=5, **limits)
        for name in quiet:
            np.testing.assert_allclose(loud[name], quiet[name], rtol=1e-3, atol=1e-5, err_msg=name)
        assert len(seen) == (quiet["epochs"].values + 1).sum()
        seen.clear()
    jaxgd.sweep(lane, {"learning_rate": [0.1, 0.2]}, epochs=3, run=tmp_path / "run")
    assert len(seen) == 16  # 2 lanes, and both once more for their paths
    assert table.final_cost.shape == (2,)


@pytest.mark.filterwarnings("ignore:the lane calls Python")
def test_callbacks_in_batches_of_data_are_called_once_for_each():
    seen, data = [], (jnp.arange(8.0), 2 * jnp.arange(8.0))

    def cost(w, batch):
        jax.debug.callback(lambda rows: seen.append(len(rows)), batch[0])
        return jnp.mean((w * batch[0] - batch[1]) ** 2)

    def lane(learning_rate):
        return jaxgd.Descent(cost, 0.0, optax.sgd(learning_rate), data=data, batch_size=4)

    jaxgd.sweep(lane, RATES, epochs=3)
    assert seen.count(8) == 2 * 4 and seen.count(4) == 2 * 3 * 2


@pytest.mark.filterwarnings("ignore:the lane calls Python", "ignore:the cost calls back")
def test_a_folder_of_numbers_that_python_gives_is_not_gone_on_with(held, tmp_path):
    """A `pure_callback` may read something else by then, and nothing shows it."""

    @jax.custom_jvp
    def asked(d):
        return jax.pure_callback(lambda d: np.float32(scale) * np.asarray(d), jax.ShapeDtypeStruct(d.shape, d.dtype), d)

    asked.defjvp(lambda p, t: (asked(p[0]), 1.0 * t[0]))

    def lane(learning_rate):
        return descent(lambda x: asked(jnp.sum((x - 1) ** 2)), learning_rate)

    assert jaxgd.sweep(lane, RATES, epochs=3, run=tmp_path / "run").start_cost.values.tolist() == [2, 2]
    held.change()
    with pytest.raises(store.StoreError, match="asks a Python function"):
        jaxgd.sweep(lane, RATES, epochs=3, run=tmp_path / "run")
    assert jaxgd.sweep(lane, RATES, epochs=3, run=tmp_path / "other").start_cost.values.tolist() == [6, 6]


@pytest.mark.filterwarnings("ignore:the lane calls Python", "ignore:the cost calls back")
def test_a_folder_of_a_lane_that_only_prints_is_gone_on_with(tmp_path):
    def lane(learning_rate):
        return descent(lambda x: (jax.debug.callback(lambda x: None, x), jnp.sum((x - 1) ** 2))[1], learning_rate)

    first = jaxgd.sweep(lane, RATES, epochs=3, run=tmp_path / "run")
    np.testing.assert_array_equal(jaxgd.sweep(lane, RATES, epochs=3, run=tmp_path / "run").final_cost, first.final_cost)


def test_named_tuples_of_jaxprs_keep_their_names():
    """`custom_linear_solve` holds its jaxprs in one."""
    twice = np.full(2, 2.0, np.float32)

    def cost(x):
        return jnp.sum(lax.custom_linear_solve(lambda v: v / twice, x - 1, lambda _, b: 2 * b, lambda _, b: 2 * b) ** 2)

    found = jaxgd.sweep(lambda learning_rate: descent(cost, learning_rate), RATES, epochs=5)
    again = [jaxgd.descend(cost, jnp.zeros(2), optax.sgd(rate), epochs=5).cost[-1] for rate in RATES["learning_rate"]]
    np.testing.assert_allclose(found.final_cost, again, rtol=1e-5)
