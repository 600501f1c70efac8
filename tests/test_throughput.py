"""The speed study at its smallest: every part runs, every peer's results are jaxgd's, and a wrong one is found out."""

import os
import re
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.throughput import compare, growth, phases, show
from experiments.throughput import worker as workers
from experiments.throughput.__main__ import main
from experiments.throughput.compare import agreement, lanes_run
from experiments.throughput.peers import OURS, PEERS, able
from experiments.throughput.with_numpy import VALUE_AND_GRADS
from experiments.throughput.worker import PeerError, named, worker
from experiments.throughput.workloads import COSTS, WORKLOADS, axes, lanes_of, sampled, sized

pytestmark = pytest.mark.usefixtures("compiled_in_haste")


@pytest.fixture(autouse=True)
def workers_in_haste(monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


def is_a_picture(path):
    with Image.open(path) as image:
        return image.format == "PNG" and min(image.size) > 100


@pytest.fixture
def processes(monkeypatch):
    """The numbers of the processes that peers run in, as they are started."""
    numbers = []

    @contextmanager
    def noted(python):
        with worker(python) as ask:
            numbers.append(ask("timing:process"))
            yield ask

    monkeypatch.setattr(compare, "worker", noted)
    return numbers


def test_peers_agree_each_in_a_process_of_its_own_and_are_drawn(tmp_path, capfd, processes):
    tiny = ["--part", "peers", "--only", "parabola", "--lanes", "64", "--epochs", "20", "--repeats", "1"]
    assert main([*tiny, "--out", str(tmp_path / "speed.png")]) == 0
    out = capfd.readouterr().out
    workloads = [name for name in WORKLOADS if name.startswith("parabola")]
    here = [name for name, peer in PEERS.items() if peer.environment == "jaxgd" and able(peer, WORKLOADS[workloads[0]])]
    for peer in here:
        rows = re.findall(rf"^{re.escape(peer)}  .*$", out, re.MULTILINE)
        assert len(rows) == len(workloads)
        if peer != OURS:
            assert all("yes: " in row for row in rows)
    assert is_a_picture(tmp_path / "speed-peers.png")
    assert len(set(processes)) == len(processes) == len(here) * len(workloads)
    for number in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)
    ours = re.findall(rf"^{OURS}  .* (\d+) \+ (\d+)  ", out, re.MULTILINE)
    assert [int(again) for _, again in ours] == [0] * len(workloads)
    assert all(int(first) > 0 for first, _ in ours)  # nothing that another workload has compiled


def test_a_peer_that_fails_in_a_later_call_is_named_and_the_others_are_measured(monkeypatch):
    @contextmanager
    def here(python):
        calls = []

        def ask(function, *arguments):
            calls.append(function)
            if arguments[0] == PEERS["NumPy by hand"].prepare and len(calls) == 3:
                raise PeerError("the third call")
            return named(function)(*arguments)

        yield ask

    monkeypatch.setattr(compare, "worker", here)
    name = "parabola, gradient descent"
    environments = {"jaxgd": compare.Environment(sys.executable, False)}
    only = ["NumPy by hand", "jit(vmap(scan)), final cost"]
    rows, failed = compare.compared(name, sized(WORKLOADS[name], 64, 20), environments, 2, only)
    assert failed == {"NumPy by hand": "the third call"}
    assert [row.peer for row in rows] == [OURS, "jit(vmap(scan)), final cost"]
    assert all(len(row.seconds) == len(row.ratios) == 2 for row in rows)
    assert rows[0].ratios == (1, 1)


def test_an_unknown_workload_is_refused_by_name(capsys):
    with pytest.raises(SystemExit) as refusal:
        main(["--only", "rosenbrok"])
    assert refusal.value.code == 2
    assert "rosenbrok: no workload begins so; there are: parabola" in capsys.readouterr().err


def test_growth_is_measured_and_drawn(tmp_path):
    workload = sized(growth.FULL_LENGTH, 64, 20)
    (seconds, peak, table), (_, peak_stored, _) = (growth.measured(workload, 1, stored) for stored in (False, True))
    points = [
        growth.Point(along, 64, workload, tuple(seconds), peak, peak_stored, table)
        for along in ("lanes", "epochs", "dimensions")
    ]
    assert len(seconds) == 1 and peak > table >= 64 * 4 * len(growth.FULL_LENGTH.start)
    show.draw_growth(points, tmp_path / "growth.png")
    assert is_a_picture(tmp_path / "growth.png")
    assert len(show.table(show.GROWTH_COLUMNS, map(show.growth_cells, points)).splitlines()) == 4


def test_a_run_is_divided_into_its_phases(tmp_path):
    config = phases.ROOT / "configs" / "learning_rates.toml"
    seconds = phases.carried_out(str(config), str(tmp_path))
    assert all(value >= 0 for value in seconds.values())
    assert seconds["compile"] > 0 and seconds["store"] > 0
    show.draw_phases({"learning_rates": seconds}, tmp_path / "phases.png")
    assert is_a_picture(tmp_path / "phases.png")


def test_a_worker_says_what_went_wrong():
    with worker(sys.executable) as ask:
        with pytest.raises(PeerError, match="KeyError"):
            ask("timing:again", "nobody")
        assert ask("timing:has", "no-such-package") is None


def test_a_worker_that_dies_or_does_not_answer_in_time_fails_and_nothing_else_does(monkeypatch):
    with worker(sys.executable) as ask:
        os.kill(ask("timing:process"), signal.SIGKILL)
        with pytest.raises(PeerError, match=r"ended with code -9$"):
            ask("timing:process")
    monkeypatch.setattr(workers, "LIMIT", 0.001)  # no interpreter starts so soon
    with worker(sys.executable) as ask, pytest.raises(PeerError, match="after 0.001 s without an answer"):
        ask("timing:process")


def test_a_worker_finds_no_program_compiled_before(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "1")
    with worker(sys.executable) as one, worker(sys.executable) as other:
        variables = [ask("worker:environment") for ask in (one, other)]
        folders = [Path(each["TORCHINDUCTOR_CACHE_DIR"]) for each in variables]
        assert len({tmp_path, *folders}) == 3
        assert not any(list(folder.iterdir()) for folder in folders)
        assert all(each["JAX_ENABLE_COMPILATION_CACHE"] == "0" for each in variables)
    assert not any(folder.exists() for folder in folders)


@pytest.mark.parametrize("cost", COSTS)
def test_gradients_by_hand_are_jaxs(cost):
    start = next(w.start for w in WORKLOADS.values() if w.cost == cost)
    value, grads = VALUE_AND_GRADS[cost](tuple(leaf[..., None] for leaf in start))  # the last axis is the lane
    true_value, true_grads = jax.value_and_grad(COSTS[cost](jnp))(tuple(map(jnp.asarray, start)))
    tolerance = 64 * np.finfo(np.float32).eps  # sums of up to 32 terms, two roundings each
    for ours, true in zip((value, *grads), (true_value, *true_grads), strict=True):
        scale = max(1.0, float(np.max(np.abs(true))))
        np.testing.assert_allclose(np.asarray(ours)[..., 0], true, rtol=tolerance, atol=tolerance * scale)


def test_agreement_tells_settled_lanes_from_chaotic_ones_and_right_from_wrong():
    cost = np.array([1.0, 2.0, np.nan, 4.0], np.float32)
    ours = {"cost": cost, "epochs": np.array([10, 10, 3, 10])}
    assert agreement(ours, ours, ours, epochs=10) == (4, 0, 0)
    assert agreement(ours, ours, {"cost": cost}, epochs=10).equal
    for wrong in (cost * 1.01, np.where(np.isnan(cost), 7, cost), np.where(cost == 4, np.inf, cost)):
        assert not agreement(ours, ours, {"cost": wrong.astype(np.float32)}, epochs=10).equal
    assert not agreement(ours, ours, {"cost": cost, "epochs": np.array([10, 12, 3, 10])}, epochs=10).equal
    chaotic = ours | {"cost": np.array([1.0, 2.0, np.nan, 5.0], np.float32)}
    theirs = {"cost": np.array([1.0, 2.0, np.nan, 9.0], np.float32)}
    assert agreement(ours, chaotic, theirs, epochs=10) == (4, 1, 0)


def test_a_sample_stands_for_all_lanes_only_where_they_take_their_turns():
    work = WORKLOADS["rosenbrock, gradient descent"]
    for peer, on_cpu, on_accelerator in [
        ("jit(vmap(scan)), final cost", work.lanes, work.lanes),
        ("jit(vmap(scan)), cost trace", 1 << 15, work.lanes),
        ("PyTorch eager", 1 << 15, work.lanes),
        ("NumPy by hand", 1 << 15, 1 << 15),
        ("Python loop", 1, 1),
    ]:
        assert lanes_run(PEERS[peer], work, accelerated=False) == on_cpu
        assert lanes_run(PEERS[peer], work, accelerated=True) == on_accelerator


@pytest.mark.parametrize("name", WORKLOADS)
def test_samples_and_sizes_keep_to_the_grid(name):
    workload = sized(WORKLOADS[name], 1000, 137)
    assert workload.lanes == np.prod([len(values) for values in axes(workload).values()]) <= 1000
    assert workload.epochs == 130
    for most in (1, 8, 100, workload.lanes):
        lanes = lanes_of(workload, most)["learning_rate"]
        assert 1 <= len(lanes) <= most
        assert len(lanes) == len(np.arange(workload.lanes)[sampled(workload.lanes, most)])
