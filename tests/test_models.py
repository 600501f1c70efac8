"""A lane function of a few lines for the user's own model, and for a learning rate per layer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgd
from jaxgd.networks import MLP

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
Y = np.sin(X.sum(1, keepdims=True))
RATES = np.array([0.01, 0.05], np.float32)


@pytest.mark.compiled_well
def test_a_rate_for_each_layer_by_prefix_and_by_partition():
    """jaxgd's rules take a prefix of the params as their rate; any other optimizer goes through optax.partition."""
    network = MLP((3, 4, 1), loss="squared_error")

    def by_prefix(hidden, output):
        rates = {"hidden": hidden, "output": output}
        return jaxgd.Descent(network.cost, network.init(0), jaxgd.gradient_descent(rates), data=(X, Y), batch_size=4)

    def by_partition(hidden, output):
        optimizer = optax.partition(
            {"hidden": optax.sgd(hidden), "output": optax.sgd(output)}, {"hidden": "hidden", "output": "output"}
        )
        return jaxgd.Descent(network.cost, network.init(0), optimizer, data=(X, Y), batch_size=4)

    axes = {"hidden": np.array([0.0, 0.05], np.float32), "output": RATES}
    tables = [jaxgd.sweep(lane, axes, epochs=3) for lane in (by_prefix, by_partition)]
    start = np.asarray(network.init(0)["hidden"]["kernel"])
    for table in tables:
        assert (table["params.hidden.kernel"][0] == start).all() and (table["params.hidden.kernel"][1] != start).any()
    np.testing.assert_allclose(tables[0].final_cost, tables[1].final_cost, rtol=1e-5)
    assert len(np.unique(tables[0].final_cost)) == 4


def test_an_equinox_module_is_swept_whole():
    eqx = pytest.importorskip("equinox", reason="needs Equinox")
    model = eqx.nn.MLP(3, 1, 4, 1, key=jax.random.key(0))

    def cost(model, batch):
        return jnp.mean((jax.vmap(model)(batch[0]) - batch[1]) ** 2)

    def lane(learning_rate):
        return jaxgd.Descent(cost, model, optax.sgd(learning_rate), data=(X, Y), batch_size=4)

    table = jaxgd.sweep(lane, {"learning_rate": RATES}, epochs=3)
    assert (table.final_cost < table.start_cost).all()
    np.testing.assert_allclose(table.start_cost[0], cost(model, (X, Y)), rtol=1e-5)


def test_a_flax_model_is_split_and_merged():
    nnx = pytest.importorskip("flax.nnx", reason="needs Flax")
    graph, params = nnx.split(nnx.Linear(3, 1, rngs=nnx.Rngs(0)))

    def cost(params, batch):
        return jnp.mean((nnx.merge(graph, params)(batch[0]) - batch[1]) ** 2)

    def lane(learning_rate):
        schedule = optax.cosine_decay_schedule(learning_rate, 9)
        optimizer = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adamw(schedule, weight_decay=1e-3, mask=lambda p: jax.tree.map(lambda leaf: leaf.ndim > 1, p)),
        )
        return jaxgd.Descent(cost, params, optimizer, data=(X, Y), batch_size=4)

    table = jaxgd.sweep(lane, {"learning_rate": RATES}, epochs=3)
    assert (table.final_cost < table.start_cost).all()
    history = jaxgd.replay(lane, table.isel(learning_rate=1), epochs=3)
    np.testing.assert_allclose(history.cost[-1], table.final_cost[1], rtol=1e-5)
