"""What the README says holds: its Python runs, its config is good, and it names every config and every command."""

import re
from pathlib import Path

import pytest
from command import command

from jaxgd import cli

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_its_python_runs(capsys):
    names = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "best learning rate" in printed and names["table"].sizes["learning_rate"] > 1


@pytest.mark.parametrize("block", blocks("toml"))
def test_its_configs_are_good(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(block, "utf-8")
    answer = command("check", "mine.toml")
    assert answer.code == 0, answer.err


def test_it_names_every_config():
    assert set(re.findall(r"`configs/(\w+)\.toml`", TEXT)) == {path.stem for path in (ROOT / "configs").glob("*.toml")}


def test_it_names_every_command():
    names = {one.name or one.callback.__name__ for one in cli.app.registered_commands}
    assert {name for name in names if not re.search(rf"`jaxgd {name}\b", TEXT)} == set()


def test_what_it_shows_is_there():
    for path in re.findall(r"\]\(((?!https?:)[^)#]+)\)", TEXT):
        assert (ROOT / path).is_file(), path
