"""What all tests share."""

import hypothesis
import jax
import pytest

hypothesis.settings.register_profile("jaxgd", deadline=None)  # the first example compiles
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=10_000)
hypothesis.settings.load_profile("jaxgd")


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    """The test in both precisions, which it gets by name."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture
def compiled_in_haste():
    """Programs that run slowly but compile in half the time, where a test compiles many."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
