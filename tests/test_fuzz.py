"""Made-up configs, expressions and damaged folders: refused in words or done again, never used in silence.

By hypothesis' own choice of examples; more with `--hypothesis-profile=thorough`, and counted by
`python -m experiments.durability`.
"""

import os
import tempfile

import pytest
from command import command
from hypothesis import given
from hypothesis import strategies as st

from experiments import durability, hostile
from jaxgd.expression import ExpressionError, parse

chances = st.randoms(use_true_random=False)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """A folder for all examples, in which nothing must be left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fuzz"))
        yield


@given(chances)
def test_a_spoilt_config_is_good_or_one_line_and_writes_nothing(chance):
    with open("spoilt.toml", "w", encoding="utf-8", newline="") as file:
        file.write(hostile.config(chance))
    answer = command("check", "spoilt.toml")
    assert answer.code in (0, 2) and os.listdir() == ["spoilt.toml"]
    if answer.code == 2:
        assert answer.err.startswith("jaxgd: ") and answer.err.count("\n") == 1 and answer.err[:-1].isprintable()


@given(chances)
def test_an_expression_is_taken_or_refused(chance):
    try:
        assert parse(hostile.expression(chance)).names is not None
    except ExpressionError as refusal:
        assert str(refusal)


def test_made_up_configs_and_expressions_by_count():
    configs, expressions = durability.main(["--configs", "60", "--expressions", "200"])
    assert configs[:5] == (60, 60, 60, 0, 0)
    assert expressions.texts == 200 and expressions.refused > 100 and expressions.escaped == 0


def test_damaged_files_are_refused_or_done_again(capsys):
    (damaged,) = durability.main(["--damage", "12"])
    assert damaged.files >= 6 and damaged.used == 0 and damaged.refused + damaged.redone == damaged.tries
    assert "redone" in capsys.readouterr().out


def test_kills_lose_nothing(monkeypatch, tmp_path):
    """The runs share what they compile, in haste: where they are killed, they are at work."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "1")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    fewer = durability.CONFIG.replace("[64]", "[8]") + "[record]\npaths = 0\n"
    monkeypatch.setattr(durability, "CONFIG", fewer)
    (killed,) = durability.main(["--kills", "1"])
    assert killed.kills == killed.resumed == 1 and killed.lost == killed.pending == killed.different == 0
