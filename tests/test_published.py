"""The short studies of published numbers at a tiny size, through their `main`; and their parts against theory."""

import jax
import numpy as np
import pytest

from experiments import adaptive_edge, amsgrad, catapult, noisy_quadratic, polyak_step

pytestmark = pytest.mark.usefixtures("compiled_in_haste")


@pytest.fixture(autouse=True, scope="module")
def float64():
    """The studies switch to float64 for good; the other tests shall not notice."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def drawn(path):
    return path.is_file() and path.read_bytes().startswith(b"\x89PNG")


def test_adaptive_edge(tmp_path, capsys):
    """A quarter of the epochs is enough to settle at the edge; the Hessian's own sharpness goes on rising."""
    size = ["--epochs", "2000", "--records", "20", "--out", str(tmp_path)]
    ratios = adaptive_edge.main(size)
    assert ratios == pytest.approx([1] * len(ratios), abs=0.1)
    assert drawn(tmp_path / "adaptive_edge.png") and "rmsprop" in capsys.readouterr().out


def test_the_adaptive_edge_is_not_that_of_the_hessian_alone():
    row = adaptive_edge.ROWS[0]
    training = adaptive_edge.course(row, 2000, 20, 20, 0)
    alone = training._replace(preconditioned=training.sharpness)
    assert adaptive_edge.ratio(row, training).mean() == pytest.approx(1, abs=0.1)
    assert adaptive_edge.ratio(row, alone).mean() < 0.1


def test_catapult(tmp_path, capsys):
    found = catapult.main(["--units", "1024", "--rates", "50", "--epochs", "200", "--out", str(tmp_path)])
    for (low, high), boundary in ((found.rising, catapult.LAZY), (found.diverging, catapult.CATAPULT)):
        assert low <= boundary + 0.1 and high >= boundary - 0.1 and high - low < 0.11
    assert (found.kernel[found.lazy] > 0.99).all()
    assert (found.scaled * found.kernel)[found.catapulted].max() < 2  # flat enough for its rate
    assert drawn(tmp_path / "catapult.png") and "catapult phase" in capsys.readouterr().out


def test_the_published_steady_risks_are_those_of_the_formula():
    risks = [noisy_quadratic.steady_risk(rate) for rate in noisy_quadratic.RATES]
    assert risks == pytest.approx([0.1207, 0.656, 1.531, 3.143], abs=5e-4)


def test_noisy_quadratic(tmp_path, capsys):
    """Within five standard errors of the formula, and these are small."""
    found = noisy_quadratic.main(["--epochs", "2000", "--seeds", "6", "--out", str(tmp_path)])
    assert (abs(found.measured - found.steady) < 5 * found.error).all() and (found.error < 0.1 * found.steady).all()
    assert drawn(tmp_path / "noisy_quadratic.png") and "0.1207" in capsys.readouterr().out


def test_amsgrad(tmp_path, capsys):
    found = amsgrad.main(["--periods", "600", "--out", str(tmp_path)])
    theorem, section = (problem.name for problem in amsgrad.PROBLEMS)
    assert (found[theorem, "Adam"].places == 1).all()  # at the start of every period, as the theorem says
    assert found[theorem, "Adam"].regret >= (2 * amsgrad.C - 4) / 3
    assert found[section, "Adam"].places[-1] == 1
    assert found[theorem, "AMSGrad"].places[-1] < -0.9 and found[section, "AMSGrad"].places[-1] < -0.5
    assert found[theorem, "AMSGrad"].regret < 0.1 < found[theorem, "Adam"].regret
    assert drawn(tmp_path / "amsgrad.png") and "AMSGrad" in capsys.readouterr().out


@pytest.mark.parametrize("problem", amsgrad.PROBLEMS)
@pytest.mark.parametrize("method", amsgrad.METHODS)
def test_the_online_problem_is_that_of_a_plain_loop(problem, method):
    periods = 4
    x, m, v, largest = problem.start, 0.0, 0.0, 0.0
    places, regret, steps = [x], 0.0, periods * problem.period
    for step in range(steps):
        slope = problem.usual if step % problem.period else problem.rare
        regret += slope * (x + 1) / steps
        m, v = problem.b1 * m + (1 - problem.b1) * slope, problem.b2 * v + (1 - problem.b2) * slope**2
        largest = max(largest, v) if method == "AMSGrad" else v
        x = min(1.0, max(-1.0, x - problem.rate / np.sqrt(step + 1) * m / np.sqrt(largest)))
        places.append(x)
    found = amsgrad.course(problem, method, periods)
    np.testing.assert_allclose(found.places, places[:: problem.period], rtol=1e-9, atol=1e-9)
    assert found.regret == pytest.approx(regret, rel=1e-9)


def test_polyak_step(tmp_path, capsys):
    found = polyak_step.main(["--starts", "40", "--epochs", "20", "--out", str(tmp_path)])
    assert (found.quadratics.converged == 1).all() and (found.quadratics.diverged == 1).all()
    bounds = [polyak_step.bound(kappa) for kappa in polyak_step.CONDITIONS]
    largest = found.quadratics.contraction.max(axis=1)
    assert (largest <= np.array(bounds) + 1e-9).all()
    np.testing.assert_allclose(largest, bounds, rtol=0.02)  # one of the starts is close to the worst
    assert 0 <= found.gap < found.bound
    assert drawn(tmp_path / "polyak_step.png") and "published" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("study", "options"),
    [
        (adaptive_edge, ["--records", "1"]),
        (adaptive_edge, ["--units", "0"]),
        (amsgrad, ["--periods", "0"]),
        (catapult, ["--units", "1"]),
        (noisy_quadratic, ["--seeds", "1"]),
        (polyak_step, ["--starts", "0"]),
    ],
)
def test_options_out_of_range(study, options, capsys):
    with pytest.raises(SystemExit) as stopped:
        study.main(options)
    assert stopped.value.code == 2 and options[0].strip("-") in capsys.readouterr().err
