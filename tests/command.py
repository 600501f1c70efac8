"""The command, called within the test's own process: words in, exit code and words out."""

import contextlib
import io
from typing import NamedTuple

from jaxgd import cli


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def command(*words: object) -> Answer:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = cli.answered([str(word) for word in words])
    return Answer(code, out.getvalue(), err.getvalue())
