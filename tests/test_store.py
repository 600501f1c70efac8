"""The run folder: killed at any instant it goes on to the same numbers, and nothing damaged is used in silence."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from haste import in_haste
from processes import started

import jaxgd
from jaxgd import files, manifest, store
from jaxgd.plan import Plan, fingerprint, lanes_of, planned
from jaxgd.sweep import carried_out, in_memory

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

RATES = np.geomspace(1e-3, 3, 150)
EPOCHS = 20


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Several batches of few lanes, the last of them at the ragged edge of the grid."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plan, "grain", 64)
        yield


WEIGHTS = {"light": np.ones(3, np.float32), "heavy": np.array([1.0, 2.0, 4.0], np.float32)}


def lane(valley, learning_rate, scale):
    weights = jnp.asarray(WEIGHTS[valley])  # a constant of the program, so that both valleys share one

    def cost(params):
        return jnp.sum(weights * params["x"] ** 2) + params["layer"]["y"] ** 2

    return jaxgd.Descent(
        cost, {"x": scale * jnp.arange(1.0, 4.0), "layer": {"y": scale}}, jaxgd.gradient_descent(learning_rate)
    )


AXES = {"valley": jaxgd.each(["light", "heavy"]), "learning_rate": RATES, "scale": np.array([1.0, 2.0])}
SETTINGS = {"epochs": EPOCHS, "history": 3, "minimum": 0.0, "target": 1e-3}


def a_plan(**changes):
    settings = SETTINGS | changes
    return planned(settings.pop("lane", lane), settings.pop("axes", AXES), **settings)


def filled(path, plan, boxes=None):
    """A folder with some batches carried out: all of the unfinished ones, unless told which."""
    folder = store.opened(path, plan, fingerprint(plan))
    for box, figures in carried_out(plan, folder.unfinished() if boxes is None else boxes):
        folder.keep(box, figures)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run, not to be written to."""
    path = tmp_path_factory.mktemp("store") / "whole"
    with in_haste():  # as the tests, whose bits are compared with these
        folder = filled(path, a_plan())
    paths = xarray.Dataset(
        {"cost": (("path", "epoch"), np.ones((2, 3)))}, {"epoch": [0, 1, 2], "valley": ("path", ["light", "heavy"])}
    )
    folder.keep_paths(paths)
    folder.keep_config('title = "whole"\n')
    folder.finish()
    return path


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def same(a, b):
    """Bit for bit, labels and attributes included."""
    xarray.testing.assert_identical(a, b)
    for name in a.variables:
        assert a[name].dtype == b[name].dtype, name
        if a[name].dtype.kind in "if":
            np.testing.assert_array_equal(a[name].values.view(np.uint8), b[name].values.view(np.uint8), str(name))


def flipped(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << (position % 8)
    file.write_bytes(content)


def snapshot(path):
    return {file.relative_to(path): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


# What is stored is what was computed.


def test_the_folder_gives_the_table_that_the_memory_gives(whole):
    plan = a_plan()
    kept, stored = in_memory(plan), store.opened_table(whole)
    assert list(stored.data_vars) == list(kept.data_vars) and list(stored.coords) == list(kept.coords)
    assert stored.valley.values.tolist() == ["light", "heavy"]
    same(stored.drop_vars("valley"), kept.drop_vars("valley"))


def test_a_long_axis_is_written_piece_by_piece_and_watched_in_every_piece(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_CHUNK", 64)
    folder = filled(tmp_path / "run", a_plan())
    same(folder.table(), store.opened_table(whole))
    pieces = sorted((folder.path / "results.zarr" / "learning_rate" / "c").iterdir())
    assert len(pieces) == 3
    flipped(pieces[-1], 7)
    with pytest.raises(files.StoreError, match="learning_rate/c/2 is damaged"):
        folder.table()


def test_xarray_opens_it_without_us_and_without_a_warning(whole):
    plain = xarray.open_zarr(whole / "results.zarr")
    same(plain.drop_vars("done").load(), store.opened_table(whole))
    assert plain.outcome.dims == ("valley", "learning_rate", "scale")
    assert plain.sel(valley="heavy", scale=2.0).sizes == {"learning_rate": 150, "epoch": 3, "params.x.0": 3} | {
        f"{name}.batch": size
        for name, size in zip(("valley", "learning_rate", "scale"), plain["done"].shape, strict=True)
    }
    assert plain.outcome.attrs["flag_meanings"].split() == list(jaxgd.OUTCOMES)


def test_counts_that_may_be_never_read_as_nan(whole):
    stored = store.opened_table(whole)
    diverged = stored.outcome == jaxgd.OUTCOMES.index("diverged")
    assert 0 < int(diverged.sum()) < diverged.size
    assert np.isnan(stored.target_epoch.values[diverged.values]).all()
    assert float(stored.target_epoch.min()) >= 0
    raw = xarray.open_zarr(whole / "results.zarr", mask_and_scale=False)
    assert raw.target_epoch.dtype == np.int32 and raw.target_epoch.attrs["_FillValue"] == -1
    assert int(raw.target_epoch.min()) == -1


@pytest.mark.parametrize(
    "axes", [{"scale": np.array([1.0])}, {"learning_rate": RATES[:3], "scale": np.array([1.0])}, {}]
)
def test_small_and_dimensionless_grids(tmp_path, axes):
    def small(learning_rate=0.1, scale=1.0):
        return lane("light", learning_rate, scale)

    plan = a_plan(lane=small, axes=axes)
    stored = filled(tmp_path / "run", plan).table()
    assert stored.outcome.shape == plan.shape and int((stored.outcome == 0).sum()) == 0
    assert filled(tmp_path / "run", plan).unfinished() == []


def test_float64(tmp_path):
    with jax.enable_x64(True):
        plan = a_plan(epochs=5)
        stored = filled(tmp_path / "run", plan).table()
    assert stored.final_cost.dtype == stored["params.layer.y"].dtype == np.float64
    manifest = store.read_manifest(tmp_path / "run")
    assert manifest["precision"] == "float64"


# Killed at any instant, the next run goes on, and ends with the same numbers.


def test_resumed_equals_uninterrupted_and_repeats_nothing(whole, tmp_path):
    plan = a_plan()
    assert len(plan.boxes()) == 10
    for already in (0, 1, 7):
        path = tmp_path / str(already)
        filled(path, plan, plan.boxes()[:already])
        folder = store.opened(path, plan, fingerprint(plan))
        assert folder.unfinished() == plan.boxes()[already:]
    same(filled(path, plan).table(), store.opened_table(whole))
    assert store.opened(path, plan, fingerprint(plan)).unfinished() == []


def test_a_sweep_from_python_resumes(tmp_path, monkeypatch):
    run = tmp_path / "mine"
    kept = store.Folder.keep
    calls = []

    def killed(folder, box, figures):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(box)
        kept(folder, box, figures)

    monkeypatch.setattr(store.Folder, "keep", killed)
    with pytest.raises(KeyboardInterrupt):
        jaxgd.sweep(lane, AXES, **SETTINGS, run=run)
    monkeypatch.setattr(
        store.Folder, "keep", lambda folder, box, figures: (calls.append(box), kept(folder, box, figures))
    )
    resumed = jaxgd.sweep(lane, AXES, **SETTINGS, run=run)
    assert len(calls) == len(a_plan().boxes()) == len(set(map(str, calls)))
    same(resumed.drop_vars("valley"), jaxgd.sweep(lane, AXES, **SETTINGS).drop_vars("valley"))


def test_a_run_killed_while_it_is_laid_out_begins_again(tmp_path, monkeypatch):
    plan, path = a_plan(), tmp_path / "run"
    monkeypatch.setattr(manifest, "made", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.opened(path, plan, fingerprint(plan))
    assert not path.exists()
    monkeypatch.undo()
    assert store.opened(path, plan, fingerprint(plan)).unfinished() == plan.boxes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_batch_written_but_not_marked_is_done_again_over_torn_chunks(whole, copy):
    plan = a_plan()
    folder = store.opened(copy, plan, fingerprint(plan))
    box = plan.boxes()[-1]  # at the edge, where Zarr writes a part of a chunk
    folder.done[folder._tile(box)] = 0
    for chunk in folder._chunks(box):
        chunk.write_bytes(chunk.read_bytes()[:-3])
    assert folder.unfinished() == [box]
    same(filled(copy, plan).table(), store.opened_table(whole))


def test_a_marked_batch_that_lacks_a_chunk_is_not_believed(whole, copy):
    plan = a_plan()
    box = plan.boxes()[1]
    lost = list(store.opened(copy, plan, fingerprint(plan))._chunks(box))[3]
    lost.unlink()
    with pytest.raises(store.StoreError, match="is missing"):
        store.opened_table(copy)
    assert store.opened(copy, plan, fingerprint(plan)).unfinished() == [box]
    same(filled(copy, plan).table(), store.opened_table(whole))


def test_stray_partial_files_are_swept(copy):
    plan = a_plan()
    (copy / "results.zarr" / "outcome" / "c" / "0" / "0.abc.partial").write_bytes(b"half")
    (copy / "paths.zarr.partial").mkdir()
    (copy / "paths.zarr.partial" / "zarr.json").write_text("{")
    (copy / "run.toml.partial").write_text("titl")
    store.opened(copy, plan, fingerprint(plan))
    assert not list(copy.rglob("*.partial"))


# Whatever fails to be written, what is finished stays, and the rest is done when there is room.


def test_a_full_disk_at_every_write_in_turn(whole, tmp_path, monkeypatch):
    plan, path, write = a_plan(), tmp_path / "run", files.write_bytes
    room = [0]

    def until_full(file, content):
        if room[0] == 0:
            file.with_name(f"{file.name}.torn.partial").write_bytes(content[:5])
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        room[0] -= 1
        write(file, content)

    monkeypatch.setattr(files, "write_bytes", until_full)
    monkeypatch.setattr(store, "write_bytes", until_full)
    known = {str(box): figures for box, figures in carried_out(plan, plan.boxes())}
    attempts, kept = 0, 0
    while True:
        room[0] = 1 + attempts % 37 + 60 * (not path.exists())  # ever another one of the writes fails
        try:
            folder = store.opened(path, plan, fingerprint(plan))
            left = folder.unfinished()
            assert len(left) <= len(plan.boxes()) - kept
            kept = len(plan.boxes()) - len(left)
            for box in left:
                folder.keep(box, known[str(box)])
                kept += 1
            break
        except OSError as error:
            assert error.errno == errno.ENOSPC
            attempts += 1
    assert attempts > 20
    assert not list(path.rglob("*.partial")) or store.opened(path, plan, fingerprint(plan)).unfinished() == []
    same(store.opened_table(path), store.opened_table(whole))


# One writer.


def test_a_second_writer_is_told_who_the_first_is(tmp_path):
    path, code = tmp_path / "run", "import sys, time; from pathlib import Path; from jaxgd.files import sole_writer\n"
    code += "with sole_writer(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    other = started("-c", code, path)
    with other.stdout, other.stderr:
        assert other.stdout.readline() == "in\n"
        with (
            pytest.raises(store.StoreError, match=f"being written by process {other.pid} on .*, since 2"),
            files.sole_writer(path),
        ):
            pass
        other.kill()
        other.wait()
    with files.sole_writer(path):  # a dead one's lock holds nobody up
        pass
    with pytest.raises(ZeroDivisionError), files.sole_writer(path):
        1 / 0  # noqa: B018
    with files.sole_writer(path), pytest.raises(store.StoreError, match=f"process {os.getpid()} on"):
        jaxgd.sweep(lane, AXES, **SETTINGS, run=path)
    assert not path.exists()


# A run begun anew.


def test_a_run_set_aside_keeps_all_it_had(whole, copy):
    before = snapshot(copy)
    assert store.set_aside(copy) == copy.with_name("copy-1") and not copy.exists()
    assert snapshot(copy.with_name("copy-1")) == before
    assert store.set_aside(copy) is None
    filled(copy, a_plan(), [])
    assert store.set_aside(copy) == copy.with_name("copy-2")


def test_only_runs_are_set_aside(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(store.StoreError, match="not a run folder"):
        store.set_aside(tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "mine"


# What isn't this run is refused, and left untouched.


def test_another_run_is_refused_and_untouched(copy):
    before = snapshot(copy)
    for other in (a_plan(epochs=21), a_plan(axes=AXES | {"scale": np.array([1.0, 3.0])}), a_plan(target=1e-4)):
        with pytest.raises(store.StoreError, match="holds another run"):
            store.opened(copy, other, fingerprint(other))
    assert snapshot(copy) == before


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "not a run folder"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"layout": 99}', "layout 99"),
        ('{"layout": 1}', "damaged"),
    ],
)
def test_a_folder_that_is_no_run_is_refused_and_untouched(tmp_path, content, said):
    (tmp_path / "precious.txt").write_text("mine")
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    before = snapshot(tmp_path)
    with pytest.raises(store.StoreError, match=said):
        store.opened(tmp_path, a_plan(), fingerprint(a_plan()))
    assert snapshot(tmp_path) == before


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(store.StoreError, match="not a run folder"):
        store.opened(tmp_path / "run", a_plan(), fingerprint(a_plan()))
    assert (tmp_path / "run").read_text() == "mine"


def test_an_empty_folder_is_taken(tmp_path):
    assert filled(tmp_path, a_plan(), []).unfinished() == a_plan().boxes()


# What is damaged is refused with the file's name, or done again; never used in silence.


def test_every_flipped_byte_is_noticed(tmp_path):
    """A byte of each file in turn: at the start, in the middle, near the end."""

    def small(learning_rate, name):
        return lane("light", learning_rate, 1.0)

    plan = planned(small, {"learning_rate": RATES[:2], "name": jaxgd.each(["α", "b"])}, **SETTINGS)
    path = tmp_path / "run"
    folder = filled(path, plan)
    folder.keep_paths(xarray.Dataset({"cost": (("path", "epoch"), np.ones((1, 2)))}, {"epoch": [0, 3]}))
    folder.keep_config("title = 'x'\n")
    honest = store.opened_table(path)
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    assert {"manifest.json", "run.toml", "zarr.json"} <= {file.name for file in files} and len(files) > 60
    for turn, file in enumerate(files):
        content = file.read_bytes()
        flipped(file, (0, len(content) // 2, len(content) - 2)[turn % 3])
        part = file.relative_to(path).parts[0]
        with pytest.raises(store.StoreError) as refused:
            {"paths.zarr": store.opened_paths, "run.toml": store.config_file}.get(part, store.opened_table)(path)
        named = str(refused.value)
        assert named.startswith(str(file)) or (part == "manifest.json" and "layout" in named), (file, named)
        file.write_bytes(content)
    same(store.opened_table(path), honest)


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_torn_files_are_refused(copy, cut):
    plan = a_plan()
    tile = (0, 0, 0)
    for file, reading in (
        (copy / "manifest.json", lambda: store.opened(copy, plan, fingerprint(plan))),
        (copy.joinpath("results.zarr", "done", "c", *map(str, tile)), lambda: store.opened_table(copy)),
        (copy.joinpath("results.zarr", "final_cost", "c", *map(str, tile)), lambda: store.opened_table(copy)),
        (copy.joinpath("results.zarr", "learning_rate", "c", "0"), lambda: store.opened(copy, plan, fingerprint(plan))),
    ):
        content = file.read_bytes()
        file.write_bytes(content[:cut])
        with pytest.raises(store.StoreError, match="damaged"):
            reading()
        file.write_bytes(content)


def test_the_cure_that_the_message_names_works(whole, copy):
    plan = a_plan()
    chunk = list(store.opened(copy, plan, fingerprint(plan))._chunks(plan.boxes()[2]))[5]
    flipped(chunk, 9)
    with pytest.raises(store.StoreError, match="damaged; run again") as refused:
        store.opened_table(copy)
    assert Path(str(refused.value).split(" is damaged")[0]) == chunk
    assert store.opened(copy, plan, fingerprint(plan)).unfinished() == [plan.boxes()[2]]
    same(filled(copy, plan).table(), store.opened_table(whole))


def test_a_damaged_ledger_is_not_believed(whole, copy):
    plan = a_plan()
    flipped(copy.joinpath("results.zarr", "done", "c", "0", "0", "0"), 6)
    assert store.opened(copy, plan, fingerprint(plan)).unfinished() == plan.boxes()
    same(filled(copy, plan).table(), store.opened_table(whole))


def test_batches_of_another_size_are_refused_and_untouched(copy, monkeypatch):
    """Begun on another kind of device, say."""
    before = snapshot(copy)
    monkeypatch.setattr(Plan, "grain", 128)
    plan = a_plan()
    with pytest.raises(store.StoreError, match="begun on another kind of device"):
        store.opened(copy, plan, fingerprint(plan))
    assert snapshot(copy) == before


def test_missing_metadata_is_refused(copy):
    plan = a_plan()
    (copy / "results.zarr" / "epochs" / "zarr.json").unlink()
    with pytest.raises(store.StoreError, match=r"epochs/zarr\.json"):
        store.opened(copy, plan, fingerprint(plan))


def test_damaged_paths_are_made_anew(copy):
    plan = a_plan()
    folder = store.opened(copy, plan, fingerprint(plan))
    assert folder.paths_kept()
    assert store.opened_paths(copy).valley.values.tolist() == ["light", "heavy"]
    flipped(copy / "paths.zarr" / "cost" / "c" / "0" / "0", 5)
    assert not folder.paths_kept()
    folder.keep_paths(xarray.Dataset({"cost": (("path", "epoch"), np.zeros((1, 2)))}, {"epoch": [0, 1]}))
    assert folder.paths_kept() and store.opened_paths(copy).sizes == {"path": 1, "epoch": 2}


def test_stored_paths_not_yet_in_the_manifest_are_not_believed(copy, monkeypatch):
    plan = a_plan()
    folder = store.opened(copy, plan, fingerprint(plan))
    monkeypatch.setattr(manifest, "note_hashes", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        folder.keep_paths(xarray.Dataset({"cost": (("path", "epoch"), np.zeros((1, 2)))}, {"epoch": [0, 1]}))
    assert not folder.paths_kept()


# The manifest.


def test_the_manifest_says_how_the_numbers_came_about(whole):
    manifest = store.read_manifest(whole)
    assert manifest["lanes"] == a_plan().lanes and manifest["precision"] == "float32"
    assert manifest["packages"]["jax"] == jax.__version__ and len(manifest["devices"]) == len(jax.local_devices())
    assert manifest["begun"] <= manifest["finished"]
    arrays = {json.loads(file.read_text())["node_type"] for file in (whole / "results.zarr").glob("*/zarr.json")}
    assert arrays == {"array"}


def other_versions(monkeypatch, **versions):
    monkeypatch.setattr(manifest, "version", lambda name: versions.get(name, "1"))


def test_a_run_that_goes_on_under_other_versions_says_so_and_notes_each_session(tmp_path, monkeypatch):
    plan = a_plan()
    first, *rest = plan.boxes()
    other_versions(monkeypatch, jax="0.10.2")
    filled(tmp_path / "run", plan, [first])
    filled(tmp_path / "run", plan, rest[:1])  # in the same versions nothing need be said, and nothing was noted
    lanes = sum(map(lanes_of, [first, rest[0]]))
    other_versions(monkeypatch, jax="0.12.0")
    monkeypatch.setattr(manifest.jax, "local_devices", lambda: [SimpleNamespace(platform="gpu", device_kind="T4")])
    folder = store.opened(tmp_path / "run", plan, fingerprint(plan))
    said = rf"{lanes} of its {plan.lanes} lanes are of jax 0\.10\.2 \(now 0\.12\.0\), device cpu cpu \(now gpu T4\);"
    with pytest.warns(UserWarning, match=said):
        boxes = folder.begin()
    assert boxes == rest[1:]
    known = store.read_manifest(tmp_path / "run")
    assert known["packages"]["jax"] == "0.10.2" and "lanes" in known
    (session,) = known["resumed"]
    assert session["packages"]["jax"] == "0.12.0" and session["lanes"] == lanes and session["devices"] == ["gpu T4"]


def test_a_session_that_finished_nothing_mixed_nothing(tmp_path, monkeypatch):
    plan = a_plan()
    other_versions(monkeypatch, numpy="1.26")
    filled(tmp_path / "run", plan, [])
    other_versions(monkeypatch, numpy="2.4")
    folder = store.opened(tmp_path / "run", plan, fingerprint(plan))
    for box, figures in carried_out(plan, folder.begin()):  # a warning would be an error
        folder.keep(box, figures)
    before = store.read_manifest(tmp_path / "run")
    assert len(before["resumed"]) == 1
    other_versions(monkeypatch, numpy="2.5")
    assert store.opened(tmp_path / "run", plan, fingerprint(plan)).begin() == []  # nothing left to be done otherwise
    assert store.read_manifest(tmp_path / "run") == before


def test_another_run_may_be_the_same_one_read_by_another_version(tmp_path, monkeypatch):
    other_versions(monkeypatch, jax="0.10.2")
    filled(tmp_path / "run", a_plan(), [])
    other_versions(monkeypatch, jax="0.12.0")
    with pytest.raises(store.StoreError, match=r"or the same ones read otherwise by jax 0\.10\.2 \(now 0\.12\.0\)"):
        store.opened(tmp_path / "run", a_plan(), "another")


def test_finishing_twice_keeps_the_first_time(copy):
    before = store.read_manifest(copy)
    store.opened(copy, a_plan(), fingerprint(a_plan())).finish()
    assert store.read_manifest(copy) == before


def test_the_commit_of_the_repository_around_the_source(tmp_path):
    def git(*words):
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        return subprocess.run(
            ["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    assert manifest.commit(tmp_path) is None
    git("init", "-q")
    (tmp_path / "model.py").write_text("x = 1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    assert manifest.commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "model.py").write_text("x = 2\n")
    assert manifest.commit(tmp_path) == git("rev-parse", "HEAD") + "+"
