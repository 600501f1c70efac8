"""Runs: a config into its folder and back; what is finished is never repeated, what is edited is never stale."""

import io
import time
import tomllib

import jax
import numpy as np
import optax
import pytest
import xarray
from processes import said
from rich.console import Console
from small import PARABOLA, RACE, lasting, written

import jaxgd
from jaxgd import config, paths, run, store, workers
from jaxgd.cli import carrying
from jaxgd.config import ConfigError
from jaxgd.outcome import DIVERGED
from jaxgd.plan import Plan

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

SWEEP = f"""
title = "a sweep"
{lasting(30, PARABOLA)}
[sweep]
optimizer.learning_rate = {{ geomspace = [1e-2, 2, 150] }}
seed = {{ values = [0, 1] }}
[record]
paths = 20
"""
MODEL = """
import jax.numpy as jnp
import numpy as np
import optax
import jaxgd

data = np.arange(2000.0, dtype=np.float32)

def lane(learning_rate=0.1):
    return jaxgd.Descent(lambda x: jnp.mean((x - data) ** 2), 1.0, optax.sgd(learning_rate))
"""
MINE = """
[lane]
function = "model:lane"
[run]
epochs = 5
[sweep]
lane.learning_rate = { linspace = [0.1, 1.5, 4] }
"""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several batches, and paths in several blocks, of few lanes."""
    monkeypatch.setattr(Plan, "grain", 64)


def carried_out(folder, text, *settings, **progress):
    prepared = run.prepared(written(folder, text), settings, runs=folder / "runs")
    run.carry_out(prepared, **progress)
    return prepared


def counted(monkeypatch):
    """The boxes that are really carried out from now on."""
    done, batch = [], workers.carried_out
    monkeypatch.setattr(workers, "carried_out", lambda plan, boxes: (done.extend(boxes), batch(plan, boxes))[1])
    return done


def same(a, b):
    for name in a.variables:
        np.testing.assert_array_equal(a[name].values, b[name].values, str(name))
    assert list(a.variables) == list(b.variables) and a.attrs == b.attrs


# --- the folder ---


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = carried_out(tmp_path / "a", SWEEP)
    boxes, seen, done = len(whole.plan.boxes()), [], counted(monkeypatch)
    assert boxes >= 4

    def interrupted(finished, lanes):
        seen.append(finished)
        if len(seen) == 3:  # the first call comes before any batch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carried_out(tmp_path / "b", SWEEP, progress=interrupted)
    assert store.read_manifest(whole.folder)["finished"] is not None
    kept = store.opened(tmp_path / "b" / "runs" / whole.folder.name, whole.plan, whole.fingerprint)
    assert len(kept.unfinished()) == boxes - 2 and store.read_manifest(kept.path)["finished"] is None

    done.clear()
    seen.clear()
    resumed = carried_out(tmp_path / "b", SWEEP, progress=lambda finished, lanes: seen.append((finished, lanes)))
    assert len(done) == boxes - 2 and seen[0][0] > 0 and seen[-1] == (300, 300)
    same(store.opened_table(resumed.folder), store.opened_table(whole.folder))
    same(store.opened_paths(resumed.folder), store.opened_paths(whole.folder))

    done.clear()
    before = {file: file.stat().st_mtime_ns for file in resumed.folder.rglob("*") if file.is_file()}
    carried_out(tmp_path / "b", SWEEP)
    assert not done
    assert {file: file.stat().st_mtime_ns for file in resumed.folder.rglob("*") if file.is_file()} == before


def test_run_toml_is_the_config_with_its_defaults_and_runs_again(tmp_path):
    prepared = carried_out(tmp_path, SWEEP, "run.epochs=3")
    content = tomllib.loads((prepared.folder / "run.toml").read_text())
    assert content["run"] == {"epochs": 3, "precision": "float32", "select": "final_cost", "unequal_trials": False}
    assert run.config_of(prepared.folder) == prepared.config
    again = run.prepared(prepared.folder / "run.toml", runs=tmp_path / "runs")
    assert again.fingerprint == prepared.fingerprint


def test_a_run_toml_changed_by_hand_is_not_believed_and_mended_by_running(tmp_path):
    prepared = carried_out(tmp_path, SWEEP, "run.epochs=3")
    written(prepared.folder, SWEEP, "run.toml")
    with pytest.raises(store.StoreError, match=r"run\.toml is damaged"):
        run.config_of(prepared.folder)
    carried_out(tmp_path, SWEEP, "run.epochs=3")
    assert run.config_of(prepared.folder) == prepared.config


def test_a_title_is_no_new_run_and_anything_else_is(tmp_path):
    def folder(*settings):
        return run.prepared(written(tmp_path, SWEEP), settings, runs=tmp_path).folder

    assert folder("title='another'") == folder()
    changes = [
        "run.epochs=31",
        "run.target=5.1",
        "start.x=3.1",
        "cost.minimum=4",
        "run.precision='float64'",
        "record.paths=3",
    ]
    assert (
        len({folder(), *map(folder, changes), folder("cost.expression='x**2 + 6'"), folder("sweep.seed.values=[0,2]")})
        == 9
    )


def test_nothing_is_written_by_preparing_or_by_a_bad_config(tmp_path):
    run.prepared(written(tmp_path, SWEEP), runs=tmp_path / "runs")
    with pytest.raises(ConfigError):
        run.prepared(written(tmp_path, SWEEP), ["run.epoch=3"], runs=tmp_path / "runs")
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize(
    "old, new",
    [
        ("(x - data) ** 2", "(x - data) ** 4"),  # the program
        (
            "data = np.arange(2000.0, dtype=np.float32)",
            "data = np.arange(2000.0, dtype=np.float32); data[1000] += 1",
        ),  # one constant of many
        ("1.0, optax", "1.5, optax"),  # the start
        ("lambda x: jnp.mean((x - data) ** 2)", "__import__('jax').jit(lambda x: jnp.mean((x - data[::-1]) ** 2))"),
    ],
)
def test_an_edited_model_is_a_new_run(tmp_path, old, new):
    def fingerprint(text):
        written(tmp_path, text, "model.py")
        return run.prepared(written(tmp_path, MINE), runs=tmp_path).fingerprint

    assert old in MODEL
    assert fingerprint(MODEL) == fingerprint(MODEL) != fingerprint(MODEL.replace(old, new))


def test_data_inside_a_jitted_cost_counts_too(tmp_path):
    def fingerprint(change):
        jitted = MODEL.replace(
            "lambda x: jnp.mean((x - data) ** 2)", "__import__('jax').jit(lambda x: jnp.mean((x - data) ** 2))"
        )
        written(tmp_path, jitted.replace("dtype=np.float32)", f"dtype=np.float32); data[1000] += {change}"), "model.py")
        return run.prepared(written(tmp_path, MINE), runs=tmp_path).fingerprint

    assert fingerprint(1) == fingerprint(1) != fingerprint(2)


def test_a_fingerprint_is_the_same_in_another_process(tmp_path):
    written(tmp_path, MODEL, "model.py")
    path = written(tmp_path, MINE)
    code = f"from pathlib import Path; from jaxgd import run; print(run.prepared(Path({str(path)!r})).folder.name)"
    assert said(code).strip() == run.prepared(path).folder.name


def test_a_user_s_lane_with_names_as_an_axis(tmp_path):
    model = MODEL.replace("learning_rate=0.1)", "kind, learning_rate=0.1)").replace(
        "mean(", "mean({'flat': 0.1, 'steep': 1.0}[kind] * "
    )
    written(tmp_path, model, "model.py")
    mine = MINE.replace('"model:lane"', '"model:lane"\nkind = "flat"')
    text = mine + 'lane.kind = { values = ["flat", "steep"] }\n[record]\npaths = 4\n'
    prepared = carried_out(tmp_path, text)
    stored, paths = store.opened_table(prepared.folder), store.opened_paths(prepared.folder)
    assert stored.outcome.dims == ("learning_rate", "kind") and stored.kind.values.tolist() == ["flat", "steep"]
    assert set(paths.kind.values.tolist()) <= {"flat", "steep"} and list(paths.coords) == [
        "epoch",
        "learning_rate",
        "kind",
    ]


# --- the paths ---


def test_paths_are_the_lanes_again(tmp_path):
    prepared = carried_out(tmp_path, SWEEP, "record.paths=100")  # more than a block
    stored, paths = store.opened_table(prepared.folder), store.opened_paths(prepared.folder)
    assert paths.sizes == {"path": 100, "epoch": 31} and paths.cost.dtype == np.float32
    for place in range(0, 100, 7):
        path = paths.isel(path=place)
        lane = stored.sel(learning_rate=path.learning_rate, seed=path.seed)
        ended = int(lane.epochs)
        assert int(path.outcome) == int(lane.outcome)
        assert np.isnan(path.cost.values[ended + 1 :]).all() and not np.isnan(path.cost.values[:ended]).any()
        eps = float(np.finfo(np.float32).eps)  # another program: each of its steps may round another way
        if int(lane.outcome) != DIVERGED:
            np.testing.assert_allclose(path.cost.values[ended], lane.final_cost, rtol=30 * 4 * eps)
            np.testing.assert_allclose(path["params.x"].values[ended], lane["params.x"], rtol=0, atol=30 * 4 * eps * 3)
        exact = 5 + (3 * (1 - 2 * float(path.learning_rate)) ** np.arange(ended + 1)) ** 2
        np.testing.assert_allclose(path.cost.values[: ended + 1], exact, rtol=30 * 8 * eps)


def test_lanes_that_ended_stand_still_and_hurt_no_neighbour(tmp_path):
    prepared = carried_out(tmp_path, SWEEP, "run.target=5.5", "run.ceiling=1e3", "record.paths=300")
    stored, paths = store.opened_table(prepared.folder), store.opened_paths(prepared.folder)
    ended = stored.epochs.values.ravel()
    assert len(set(ended.tolist())) > 5 and paths.sizes["path"] == 300
    last = np.take_along_axis(paths.cost.values, ended[:, None].astype(int), 1)[:, 0]
    met = stored.target_epoch.notnull().values.ravel()
    assert met.any() and (last[met] <= 5.5).all()
    assert (last[stored.diverged_epoch.notnull().values.ravel()] > 1e3).all()
    assert (np.isfinite(paths.cost.values).sum(1) == ended + 1).all()


def test_paths_too_long_to_keep_are_thinned(tmp_path, monkeypatch):
    whole = carried_out(tmp_path, SWEEP)
    every = store.opened_paths(whole.folder)
    monkeypatch.setattr(paths, "_BYTES", 20 * 20 * 7)  # 20 paths of 4 + 16 bytes a record
    chosen = [(i, 0) for i in range(20)]
    stored = store.opened_table(whole.folder)
    thin, full = paths.replayed(whole.plan, stored, chosen), None
    assert thin.epoch.values.tolist() == [0, 2, 9, 15, 30]  # some spread evenly, some by ratios
    monkeypatch.undo()
    full = paths.replayed(whole.plan, stored, chosen)
    assert full.sizes["epoch"] == 31 == every.sizes["epoch"]
    np.testing.assert_allclose(thin.cost, full.cost.sel(epoch=thin.epoch), rtol=30 * 4 * np.finfo(np.float32).eps)


def test_one_program_for_all_paths_of_a_kind(tmp_path, monkeypatch):
    prepared = carried_out(tmp_path, SWEEP, "record.paths=2")
    stored, traced = store.opened_table(prepared.folder), []
    recorded = paths._recorded
    monkeypatch.setattr(paths, "_recorded", lambda *arguments: (traced.append(1), recorded(*arguments))[1])
    paths.replayed(prepared.plan, stored, [(i, seed) for i in range(100) for seed in (0, 1)])  # over three blocks
    assert len(traced) == 1


def test_a_race_is_its_own_paths_in_its_own_precision(tmp_path):
    prepared = carried_out(tmp_path, lasting(25, RACE), "run.precision='float64'")
    paths = store.opened_paths(prepared.folder)
    assert paths.optimizer.values.tolist() == ["adam", "momentum"]
    assert paths.cost.dtype == paths["params.x"].dtype == np.float64 and paths["params.x"].shape == (2, 26, 2)
    with jax.enable_x64(True):
        history = jaxgd.replay(prepared.plan.lane, {"optimizer": "momentum"}, epochs=25)
    eps = np.finfo(np.float64).eps
    np.testing.assert_allclose(
        paths.cost[1], history.cost, rtol=1e4 * 25 * eps
    )  # curvature up to 1e3 enlarges roundings
    np.testing.assert_allclose(paths.gradient_norm[1], history.gradient_norm, rtol=1e4 * 25 * eps)


def test_a_sweep_has_no_paths_unless_asked_for(tmp_path):
    prepared = carried_out(tmp_path, SWEEP, "record.paths=0")
    assert store.opened_paths(prepared.folder) is None and not (prepared.folder / "paths.zarr").exists()


def test_a_single_descent_and_one_valued_axes_have_their_path(tmp_path):
    for settings in (("sweep={}",), ("sweep.seed.values=[3]", "sweep.optimizer.learning_rate.geomspace=[0.1, 0.1, 1]")):
        prepared = carried_out(tmp_path, SWEEP, "record.paths=0", *settings)
        assert store.opened_paths(prepared.folder).sizes == {"path": 1, "epoch": 31}


def test_another_number_of_paths_makes_them_again_and_none_leaves_what_is_there(tmp_path, monkeypatch):
    def lane(learning_rate):
        return jaxgd.Descent(lambda x: x**2, 1.0, optax.sgd(learning_rate))

    def swept(name, **options):
        axes = {"learning_rate": np.linspace(0.01, 0.99, 80)}
        table = jaxgd.sweep(lane, axes, epochs=3, run=tmp_path / name, **options)
        return table, store.opened_paths(tmp_path / name), store.opened_surface(tmp_path / name)

    first, found, _ = swept("grows", paths=4)
    assert found.sizes["path"] == 4
    for options, count in (({}, 4), ({"paths": 20}, 20), ({}, 20), ({"paths": 500}, 80), ({"paths": 3}, 3)):
        again, found, surface = swept("grows", **options)
        assert found.sizes["path"] == count and again.identical(first)
    _, at_once, surface_at_once = swept("at once", paths=3)
    assert found.identical(at_once) and surface.identical(surface_at_once)
    assert swept("grows", paths=0)[1] is None and not (tmp_path / "grows" / "paths.zarr").exists()
    assert swept("grows")[1].sizes["path"] == 10  # where there are none, an eighth
    monkeypatch.setattr(paths, "replayed", None)
    assert swept("grows", paths=10)[1].sizes["path"] == swept("grows")[1].sizes["path"] == 10


def test_paths_that_are_to_be_others_are_gone_before_the_surface_is_another(tmp_path, monkeypatch):
    def lane(learning_rate):
        return jaxgd.Descent(lambda x: x**2, 1.0, optax.sgd(learning_rate))

    def swept(count=None):
        jaxgd.sweep(lane, {"learning_rate": np.linspace(0.01, 0.99, 40)}, epochs=3, run=tmp_path / "run", paths=count)
        return store.opened_paths(tmp_path / "run")

    assert swept(4).sizes["path"] == 4
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr(store.Folder, "keep_paths", lambda *_: 1 / 0)
        swept(6)
    assert store.opened_paths(tmp_path / "run") is None
    assert swept().sizes["path"] == 8


# --- found again ---


def test_a_word_finds_its_run(tmp_path):
    prepared = carried_out(tmp_path, SWEEP, "run.epochs=3")
    other = carried_out(tmp_path, SWEEP, "run.epochs=4")
    runs = tmp_path / "runs"
    assert run.resolved(str(prepared.folder), runs) == prepared.folder
    assert run.resolved(prepared.folder.name[:7], runs) == prepared.folder
    with pytest.raises(ConfigError, match="could be"):
        run.resolved("mine", runs)
    with pytest.raises(ConfigError, match="is no run"):
        run.resolved("yours", runs)
    with pytest.raises(ConfigError, match="has not been run yet"):
        run.resolved(str(tmp_path / "mine.toml"), runs)
    written(tmp_path, SWEEP.replace("epochs = 30", "epochs = 4"))
    assert run.resolved(str(tmp_path / "mine.toml"), runs) == other.folder
    assert isinstance(run.config_of(other.folder), config.Config)
    assert isinstance(xarray.open_zarr(other.folder / "results.zarr"), xarray.Dataset)


# --- progress ---


def progress_of(monkeypatch, tmp_path, *, terminal, slow, seconds=0.3):
    """What the command writes to the terminal while a run of so many seconds goes on, in one silent step."""
    out = io.StringIO()
    monkeypatch.setattr(carrying, "_SLOW", slow)
    monkeypatch.setattr(carrying, "console", lambda stderr: Console(file=out, force_terminal=terminal, width=80))
    monkeypatch.setattr(run, "carry_out", lambda prepared, progress, cluster: (progress(64, 300), time.sleep(seconds)))
    carrying._carry_out(run.prepared(written(tmp_path, SWEEP), runs=tmp_path))
    return out.getvalue()


def test_slow_work_shows_a_bar_that_leaves_the_terminal_clean(monkeypatch, tmp_path):
    said = progress_of(monkeypatch, tmp_path, terminal=True, slow=0.05)
    assert " 64/300" in said
    assert said.endswith("\x1b[?25h\r\x1b[1A\x1b[2K")  # the cursor is back, the line wiped


def test_quick_work_and_logs_show_none(monkeypatch, tmp_path):
    assert progress_of(monkeypatch, tmp_path, terminal=True, slow=60, seconds=0) == ""
    assert progress_of(monkeypatch, tmp_path, terminal=False, slow=0.05) == ""
