"""Other machines: any executor, and the workers of a Dask scheduler, some of which die; the numbers stay the same."""

import contextlib
import logging
import os
import signal
import subprocess
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from command import command
from processes import started

import jaxgd
from jaxgd import cluster, run, store
from jaxgd.plan import Plan, alone
from jaxgd.ranges import ConfigError
from jaxgd.sweep import batch, carried_out

CONFIG = """
[cost]
expression = "x**2 + 5"
minimum = 5
[start]
x = { uniform = [-3, 3] }
[optimizers.momentum]
learning_rate = 0.1
[optimizers.adam]
learning_rate = 0.1
[run]
epochs = 30
[sweep]
seed = { arange = [8] }
optimizers.learning_rate = { geomspace = [1e-2, 2, 64] }
[record]
paths = 0
"""


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """16 batches of two programs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Plan, "grain", 64)
    (tmp_path / "mine.toml").write_text(CONFIG)
    return run.prepared(Path("mine.toml"))


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The same on this machine alone, in batches as large as they come."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "mine.toml").write_text(CONFIG)
    alone = run.prepared(folder / "mine.toml", runs=folder)
    run.carry_out(alone)
    return store.opened_table(alone.folder)


def same(a, b):
    assert a.identical(b)
    for name in (name for name in a.data_vars if a[name].dtype.kind in "if"):
        np.testing.assert_array_equal(a[name].values.view(np.uint8), b[name].values.view(np.uint8), str(name))


def test_a_batch_alone_is_the_batch_within_the_whole(prepared):
    plan = prepared.plan
    assert len(plan.boxes()) == 8
    for box in plan.boxes()[::3]:
        small, here = alone(plan, box)
        assert small.lanes == 128 and small.block == plan.block
        whole, apart = batch(plan, box), batch(small, here)
        assert whole.keys() == apart.keys()
        for name in whole:
            np.testing.assert_array_equal(whole[name], apart[name], name)


def test_any_executor_will_do(prepared):
    boxes = prepared.plan.boxes()[6:10]
    known = {str(box): figures for box, figures in carried_out(prepared.plan, boxes)}
    with ThreadPoolExecutor(2) as threads, ProcessPoolExecutor(1, get_context("spawn")) as processes:
        for executor in (threads, processes):
            for box, figures in carried_out(prepared.plan, boxes, executor):
                for name, values in figures.items():
                    np.testing.assert_array_equal(values, known[str(box)][name])


# --- Dask ---

distributed = pytest.importorskip("distributed")


@contextlib.contextmanager
def dask(folder, workers):
    """A scheduler and its workers, processes of their own, which a nanny starts again when they die."""
    file = folder / "scheduler.json"
    words = ["--scheduler-file", file, "--no-dashboard", "--host", "127.0.0.1"]
    roles = {"scheduler": ["--port", "0"], "worker": ["--nworkers", workers, "--nthreads", "1"]}
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [started("-m", f"distributed.cli.dask_{one}", *words, *more, **quiet) for one, more in roles.items()]
    try:
        deadline = time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield str(file), processes[0]
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGINT)
        for process in processes:
            process.wait(30)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    with dask(tmp_path_factory.mktemp("dask"), workers=2) as (file, _):
        yield file


def test_workers_that_die_are_replaced_and_the_numbers_are_the_same(prepared, local, scheduler):
    dead = []

    def kill_one(done, lanes):
        if 0 < done < lanes and not dead:
            with distributed.Client(scheduler_file=scheduler, set_as_default=False) as client:
                dead.extend(client.run(os.getpid).values())
            os.kill(dead[0], signal.SIGKILL)

    run.carry_out(prepared, kill_one, cluster=scheduler)
    assert len(dead) == 2
    same(store.opened_table(prepared.folder), local)


class Deadly:
    """A client of workers that die: of the first batch so many times, and of the others never."""

    def __init__(self, deaths):
        self.deaths, self.first = deaths, None

    def nthreads(self):
        return {"one": 1}

    def get_executor(self, pure):
        return self

    def submit(self, function, plan, box, place, path, known_as):
        future, self.first = Future(), self.first or place
        if place == self.first and self.deaths:
            self.deaths -= 1
            future.set_exception(distributed.KilledWorker("batch", None, 3))
        else:
            future.set_result({"place": place})
        return future


def test_a_batch_whose_workers_died_by_chance_has_another_chance_and_one_that_kills_them_has_not(prepared):
    folder, boxes = store.opened(prepared.folder, prepared.plan, "a"), prepared.plan.boxes()
    done = [(box, figures["place"]) for box, figures in cluster.carried_out(Deadly(2), folder, boxes)]
    assert sorted(map(str, done)) == sorted(str((box, box)) for box in boxes)
    with pytest.raises(ConfigError, match="every worker that took a batch died of it"):
        for box, _ in cluster.carried_out(Deadly(3), folder, boxes):
            done.append(box)
    again = done[len(boxes) :]
    assert (
        boxes[0] not in again and len(again) >= len(boxes) - 2
    )  # all others first, but one that was on its way with it


def test_a_worker_that_does_not_see_the_folder_sends_its_figures_back(prepared, local, scheduler, monkeypatch):
    real = cluster._done
    monkeypatch.setattr(
        cluster, "_done", lambda client, folder, boxes, path: real(client, folder, boxes, path and Path("/not/there"))
    )
    run.carry_out(prepared, cluster=scheduler)
    same(store.opened_table(prepared.folder), local)


def test_a_python_function_travels_too(scheduler):
    rates = np.geomspace(0.01, 2, 8)

    def lane(rate):
        return jaxgd.Descent(lambda x: x**2 + 5, 3.0, jaxgd.gradient_descent(rate))

    with distributed.Client(scheduler_file=scheduler, set_as_default=False) as client:
        there = jaxgd.sweep(lane, {"rate": rates}, epochs=5, executor=client.get_executor(pure=False))
    same(there, jaxgd.sweep(lane, {"rate": rates}, epochs=5))


def test_the_command_says_where_no_scheduler_is(prepared, monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense://x", "nowhere.json"):
        answer = command("run", "mine.toml", "--cluster", address)
        assert answer.code == 2 and f"--cluster {address}: no scheduler answers there" in answer.err
        assert answer.err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_scheduler_that_is_killed_is_told_in_one_sentence_and_what_is_finished_is_kept(
    prepared, tmp_path, monkeypatch
):
    logged, carry_out = [], run.carry_out
    monkeypatch.setattr(logging.getLogger("distributed.client"), "handle", logged.append)
    with dask(tmp_path, workers=1) as (file, scheduler):

        def killing(prepared, progress, cluster):
            carry_out(prepared, lambda done, lanes: 0 < done < lanes and scheduler.kill(), cluster)

        monkeypatch.setattr(run, "carry_out", killing)
        answer = command("run", "mine.toml", "--cluster", file)
    said = (
        f"jaxgd: --cluster {file}: the scheduler is gone; what is finished is kept, and the same command goes on from"
    )
    assert (answer.code, answer.out) == (2, "") and answer.err.startswith(said) and answer.err.count("\n") == 1
    assert logged == []
    assert 0 < (store.opened_table(prepared.folder)["outcome"] > 0).sum() < prepared.plan.lanes
