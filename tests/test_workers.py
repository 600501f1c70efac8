"""Workers: lanes by the batch, memory that runs out, programs that are forgotten and programs that are kept."""

import gc
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from processes import said

import jaxgd
from jaxgd import program, workers
from jaxgd.plan import planned
from jaxgd.sweep import carried_out

RATES = np.geomspace(1e-3, 1, 300)
AXES = {"learning_rate": RATES, "x": [-2.0, -1.0, 2.0]}
LANES = 1024 + 16  # that there is room for in a program of these, and a vector more


def well(x):
    return x**4 - 4 * x**2 + x


def lane(learning_rate, x=2.0):
    return jaxgd.Descent(well, x, optax.sgd(learning_rate))


def identical(a, b):
    """The same bits in every variable."""
    for name in a:
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)


def tight(monkeypatch, most, error):
    """From now on programs of more lanes than that fail; returns the sizes of those that were asked for."""
    asked, make = [], workers._program

    def program_of(plan, static, device, size):
        asked.append(size.lanes)

        def run(*_):
            raise error

        return program.Program(run, calls_back=False) if size.lanes > most else make(plan, static, device, size)

    monkeypatch.setattr(workers, "_program", program_of)
    return asked


NO_MEMORY = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes")


@pytest.mark.filterwarnings("ignore:.* ran out of memory:RuntimeWarning")
def test_out_of_memory_is_met_by_fewer_lanes_at_a_time_and_changes_no_bit(monkeypatch):
    most = 40  # less than a block
    whole = jaxgd.sweep(lane, AXES, epochs=60, target=-5.0)
    asked = tight(monkeypatch, most, NO_MEMORY)
    monkeypatch.setattr(workers, "_sizes", {})
    identical(jaxgd.sweep(lane, AXES, epochs=60, target=-5.0), whole)
    assert max(asked) == LANES and most / 2 < min(asked) <= most
    asked.clear()
    jaxgd.sweep(lane, AXES, epochs=60, target=-5.0)
    assert max(asked) <= most  # what didn't fit is not tried again


def test_out_of_memory_is_told(monkeypatch):
    tight(monkeypatch, LANES // 2, NO_MEMORY)
    with pytest.warns(RuntimeWarning, match="ran out of memory with 1040 lanes at a time; going on with 520"):
        jaxgd.sweep(lambda learning_rate: lane(learning_rate), {"learning_rate": np.linspace(0.1, 1, 900)}, epochs=3)


def test_other_failures_and_no_room_for_one_lane_are_raised(monkeypatch):
    with monkeypatch.context() as here:
        tight(here, 0, jax.errors.JaxRuntimeError("INTERNAL: something else"))
        with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
            jaxgd.sweep(lane, AXES, epochs=3)
    tight(monkeypatch, 0, NO_MEMORY)
    monkeypatch.setattr(
        workers, "_sizes", {workers._room(planned(lane, AXES, epochs=3), jax.devices()[0]): workers._Size(1, 1)}
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        jaxgd.sweep(lane, AXES, epochs=3)


def test_programs_are_as_large_as_the_device_has_room_for(monkeypatch):
    plan = planned(lane, AXES, epochs=3)
    for memory, lanes in {math.inf: LANES, 300 * 4 * plan.lane_bytes: LANES // 4, 0: 1}.items():
        monkeypatch.setattr(workers, "_memory", lambda device, memory=memory: memory)
        monkeypatch.setattr(workers, "_sizes", {})
        assert workers._size(plan, jax.devices()[0]).lanes == lanes


def test_boxes_do_not_depend_on_where_they_are_run_and_accelerators_take_many_at_a_time(monkeypatch):
    axes = {"learning_rate": np.geomspace(1e-3, 1, 5000), "x": jaxgd.each([1.0, 2.0])}
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    here = planned(lane, axes, epochs=3)
    assert [len(batch) for batch in workers.batches(here, here.boxes())] == [1] * 6
    block, whole = here.block, jaxgd.sweep(lane, axes, epochs=3)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    elsewhere = planned(lane, axes, epochs=3)
    assert elsewhere.boxes() == here.boxes() and elsewhere.block > block
    assert [len(batch) for batch in workers.batches(elsewhere, elsewhere.boxes())] == [3, 3]
    for box, figures in carried_out(elsewhere, elsewhere.boxes()):
        np.testing.assert_array_equal(figures["final_cost"], whole.final_cost.values[box])


def test_a_block_is_no_larger_than_a_device_s_part(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    plan = planned(lane, {"learning_rate": np.geomspace(1e-3, 1, 1 << 18)}, epochs=10)
    (alone, one), (part, two) = plan.blocks(devices=1), plan.blocks(devices=8)
    assert (alone * one, part * two) == (1 << 18, 1 << 15)


# What is remembered, and for how long.


def test_what_a_lane_read_goes_when_its_sweep_returns():
    def sweep():
        data = np.arange(12_345.0, dtype=np.float32)  # copied by the trace, and to the device

        def one(rate):
            return jaxgd.Descent(lambda x: jnp.sum((x - data) ** 2), 0.0, optax.sgd(rate))

        jaxgd.sweep(one, {"rate": [0.1]}, epochs=2)

    gc.collect()
    gc.disable()  # nothing waits for a collection
    try:
        sweep()
        assert not [array for array in jax.live_arrays() if array.shape == (12_345,)]
    finally:
        gc.enable()


def test_a_lane_is_called_once_in_every_sweep():
    called = []

    def one(rate):
        called.append(1)
        return jaxgd.Descent(well, 1.0, optax.sgd(rate))

    jaxgd.sweep(one, {"rate": RATES}, epochs=2)
    assert len(called) == 1
    programs = program.compilations()
    jaxgd.sweep(one, {"rate": RATES[::-1].copy()}, epochs=3)
    assert len(called) == 2 and program.compilations() == programs


def test_large_data_closed_over_by_fresh_functions_compile_nothing_and_are_not_copied():
    data = jnp.ones((1 << 20, 8))  # 32 MB

    def sweep():
        def one(rate):
            return jaxgd.Descent(lambda w: jnp.mean(data[:3] @ w), jnp.zeros(8), optax.sgd(rate))

        return jaxgd.sweep(one, {"rate": [0.1, 0.2]}, epochs=2)

    sweep()
    programs = program.compilations()
    sweep()
    assert program.compilations() == programs
    large = {a.unsafe_buffer_pointer() for a in jax.live_arrays() if a.nbytes >= data.nbytes}
    assert large == {data.unsafe_buffer_pointer()}


# What the command keeps on the disk.

KEPT = """
    from jaxgd.cli.kept import keep_programs
    keep_programs()
    import jax, numpy as np, optax, jaxgd
    hits = []
    jax.monitoring.register_event_listener(lambda event, **_: event.endswith("/cache_hits") and hits.append(event))
    lane = lambda rate: jaxgd.Descent(lambda x: x**4 - 4 * x**2 + x, 2.0, optax.sgd(rate))
    table = jaxgd.sweep(lane, {"rate": np.geomspace(1e-3, 1, 50)}, epochs=60)
    print(len(hits), table.final_cost.values.tobytes().hex())
"""


def test_the_command_keeps_programs_and_a_broken_or_unwritable_cache_breaks_nothing(tmp_path, monkeypatch):
    def run(cache):
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        ours = {"XDG_CACHE_HOME": str(cache), "JAX_ENABLE_COMPILATION_CACHE": "1"}
        ours |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # it compiles sooner
        hits, numbers = said(KEPT, PYTHONWARNINGS="default", **ours).split()
        return int(hits), numbers

    file = tmp_path / "file"
    file.touch()
    hits, numbers = run(file)  # no folder can be made there
    assert hits == 0
    assert run(tmp_path / "cache") == (0, numbers)
    hits, again = run(tmp_path / "cache")
    assert hits >= 1 and again == numbers
    kept = list((tmp_path / "cache" / "jaxgd").rglob("*-cache"))
    for entry in kept:
        entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])
    assert kept and run(tmp_path / "cache") == (0, numbers)
