"""Networks: back-propagation by hand and by finite differences, how weights start, losses, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgd.networks import ACTIVATIONS, INITIALISATIONS, LOSSES, MLP

pytestmark = pytest.mark.usefixtures("compiled_in_haste")

ROWS = 12
INPUTS = np.random.default_rng(0).normal(size=(ROWS, 5))
LABELS = np.arange(ROWS) % 3
TARGETS = {
    "softmax_cross_entropy_with_integer_labels": LABELS,
    "softmax_cross_entropy": np.eye(3)[LABELS],
    "sigmoid_binary_cross_entropy": np.eye(3)[LABELS],
    "hinge_loss": 2 * np.eye(3)[LABELS] - 1,
}


def batch_for(loss):
    return INPUTS, TARGETS.get(loss, np.random.default_rng(1).normal(size=(ROWS, 3)))


def by_hand(params, inputs, labels):
    """Back-propagation through tanh and softmax cross-entropy, written out in NumPy: deltas and grads."""
    w1, b1, w2, b2 = (np.asarray(params[layer][part]) for layer in ("hidden", "output") for part in ("kernel", "bias"))
    hidden = np.tanh(inputs @ w1 + b1)
    outputs = hidden @ w2 + b2
    shares = np.exp(outputs - outputs.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    delta2 = (shares - np.eye(3)[labels]) / len(inputs)
    delta1 = delta2 @ w2.T * (1 - hidden**2)
    return {
        "hidden": (hidden, delta1, {"kernel": inputs.T @ delta1, "bias": delta1.sum(0)}),
        "output": (outputs, delta2, {"kernel": hidden.T @ delta2, "bias": delta2.sum(0)}),
    }


def test_gradients_equal_backpropagation_by_hand(precision):
    network = MLP((5, 4, 3), initialisation="standard_normal")
    params, batch = network.init(3), (jnp.asarray(INPUTS), jnp.asarray(LABELS))
    layers, grads = network.backpropagation(params, batch), jax.grad(network.cost)(params, batch)
    # Sums of up to 12 products of numbers below 10, each rounded.
    close = {"rtol": 0, "atol": 12 * 10 * float(np.finfo(precision).eps)}
    for name, (outputs, delta, expected) in by_hand(params, INPUTS.astype(precision), LABELS).items():
        np.testing.assert_allclose(layers[name].outputs, outputs, **close)
        np.testing.assert_allclose(layers[name].delta, delta, **close)
        for part in ("kernel", "bias"):
            assert grads[name][part].dtype == precision
            np.testing.assert_allclose(grads[name][part], expected[part], **close)
            np.testing.assert_array_equal(layers[name].grads[part].shape, expected[part].shape)
            np.testing.assert_allclose(layers[name].grads[part], expected[part], **close)
    np.testing.assert_array_equal(layers["output"].inputs, layers["hidden"].outputs)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_equal_finite_differences(loss):
    with jax.enable_x64(True):
        network = MLP((5, 4, 4, 3), "sigmoid", "standard_normal", loss=loss)
        params, batch = network.init(0), tuple(map(jnp.asarray, batch_for(loss)))
        flat, as_params = jax.flatten_util.ravel_pytree(params)
        cost = jax.jit(jax.vmap(lambda x: network.cost(as_params(x), batch)))
        h = np.finfo(float).eps ** (1 / 3)  # where a central difference is as sharp as it gets, to h²
        steps = h * np.eye(flat.size)
        differences = (cost(flat + steps) - cost(flat - steps)) / (2 * h)
        grads = jax.flatten_util.ravel_pytree(jax.grad(network.cost)(params, batch))[0]
        np.testing.assert_allclose(grads, differences, rtol=0, atol=100 * h**2)


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_weights_start_with_the_spread_that_their_name_promises(name):
    sizes = (200, 400, 100)
    params = MLP(sizes, initialisation=name).init(jax.random.key(1))
    scale = {"glorot": 2 / 600, "he": 2 / 200, "lecun": 1 / 200, "standard": 1.0}[name.split("_")[0]]
    kernel = np.asarray(params["hidden"]["kernel"])
    assert kernel.shape == (200, 400)
    np.testing.assert_allclose(kernel.var(), scale, rtol=0.05)  # of 80 000 draws: five standard errors are 2.5 %
    assert (np.std(params["hidden"]["bias"]) > 0) == (name == "standard_normal")


def test_seed_and_name_alone_make_the_weights():
    first, wider = MLP((5, 4, 3)).init(7), MLP((5, 4, 9), bias=False).init(jax.random.key(7))
    np.testing.assert_array_equal(first["hidden"]["kernel"], wider["hidden"]["kernel"])
    assert list(wider["hidden"]) == ["kernel"]
    assert not np.array_equal(first["hidden"]["kernel"], MLP((5, 4, 3)).init(8)["hidden"]["kernel"])
    assert MLP((5, 4, 4, 3)).layers == ("hidden_1", "hidden_2", "output") and MLP((5, 3)).layers == ("output",)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_makes_a_network_with_finite_gradients(name):
    network = MLP((5, 4, 1), name, loss="squared_error")
    grads = jax.grad(network.cost)(network.init(0), (jnp.asarray(INPUTS), jnp.ones(ROWS)))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_accuracy_counts_what_is_told_rightly():
    eye = {"output": {"kernel": jnp.eye(3)}}
    for loss, targets in TARGETS.items():
        network = MLP((3, 3), bias=False, loss=loss)
        outputs = 2 * np.eye(3)[LABELS] - 1.0
        assert network.accuracy(eye, (jnp.asarray(outputs), jnp.asarray(targets))) == 1
        outputs[:3] *= -1
        accuracy = network.accuracy(eye, (jnp.asarray(outputs), jnp.asarray(targets)))
        np.testing.assert_allclose(accuracy, 0.75, rtol=1e-6)
    binary = MLP((1, 1), loss="sigmoid_binary_cross_entropy", bias=False)
    x, y = jnp.array([[-1.0], [2.0], [3.0], [-4.0]]), jnp.array([0, 1, 0, 0])
    assert binary.accuracy({"output": {"kernel": jnp.ones((1, 1))}}, (x, y)) == 0.75
    with pytest.raises(ValueError, match="'squared_error' tells no classes apart"):
        MLP((3, 3), loss="squared_error").accuracy(eye, (INPUTS[:, :3], INPUTS[:, :3]))


def test_cost_is_the_mean_loss_and_a_single_output_takes_a_plain_list():
    network = MLP((5, 1), loss="squared_error")
    params, y = network.init(0), np.arange(ROWS) / 10
    inputs = jnp.asarray(INPUTS, float)
    errors = network(params, inputs)[:, 0] - y
    for targets in (y, y[:, None]):
        np.testing.assert_allclose(network.cost(params, (inputs, jnp.asarray(targets))), np.mean(errors**2), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sizes": (5,)}, r"sizes = \(5,\): must be two or more whole numbers"),
        ({"sizes": (5, 0)}, "must be two or more whole numbers"),
        ({"activation": "tahn"}, "activation = 'tahn': must be one of .*; did you mean 'tanh'"),
        ({"initialisation": "glorot"}, "initialisation = 'glorot': must be one of .*; did you mean 'glorot_"),
        ({"loss": "squared_eror"}, "loss = 'squared_eror': must be one of .*; did you mean 'squared_error'"),
    ],
)
def test_networks_that_are_none(options, says):
    with pytest.raises(ValueError, match=says):
        MLP(**{"sizes": (5, 4, 3)} | options)


@pytest.mark.parametrize(
    ("loss", "inputs", "targets", "says"),
    [
        ("squared_error", INPUTS[:, :4], INPUTS[:, :3], r"inputs have shape \[12, 4\].* takes \[row, 5\]"),
        ("squared_error", INPUTS, LABELS, r"targets have shape \[12\]; squared_error takes \[12, 3\]"),
        ("softmax_cross_entropy", INPUTS, LABELS, r"softmax_cross_entropy takes \[12, 3\]"),
        (
            "softmax_cross_entropy_with_integer_labels",
            INPUTS,
            LABELS + 1,
            "targets hold 3; .* whole numbers from 0 to 2",
        ),
        ("softmax_cross_entropy_with_integer_labels", INPUTS, LABELS / 2, "takes whole numbers"),
        ("hinge_loss", INPUTS, np.eye(3)[LABELS], "targets hold 0; .* -1 and 1"),
        ("squared_error", INPUTS, np.full((ROWS, 3), np.nan), "targets hold nan; .* finite numbers"),
        ("squared_error", INPUTS, np.ones((3, 3)), "as many rows"),
    ],
)
def test_data_that_does_not_fit_the_network(loss, inputs, targets, says):
    network = MLP((5, 4, 3), loss=loss)
    with pytest.raises(ValueError, match=says):
        network.check((inputs, targets))


def test_data_that_fits():
    for loss in LOSSES:
        MLP((5, 4, 3), loss=loss).check(batch_for(loss))
    with pytest.raises(ValueError, match=r"takes \[12, 3\]"):  # when traced, too
        MLP((5, 3), loss="squared_error").cost(MLP((5, 3)).init(0), (jnp.asarray(INPUTS), jnp.ones(ROWS)))
    assert optax.squared_error is LOSSES["squared_error"].function
