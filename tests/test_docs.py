"""The pages under docs/ say what is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_that_a_page_names_is_there():
    page = (ROOT / "docs" / "silent_numbers.md").read_text("utf-8")
    named = re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", page)
    assert len(named) > 20
    for file, function in named:
        text = (ROOT / file).read_text("utf-8")
        assert f"def {function}(" in text if function else "def test_" in text, (file, function)
