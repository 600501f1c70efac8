"""Python in processes of its own, which find this jaxgd first."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jaxgd


def environment(**more: str) -> dict[str, str]:
    """Of such a process: this one's, with `more` laid over it."""
    root = str(Path(jaxgd.__file__).parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])} | more


def started(*words: object, **how: Any) -> subprocess.Popen:
    """`python WORDS...`, begun; its output is text in pipes, unless told otherwise."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()}
    return subprocess.Popen([sys.executable, *map(str, words)], **pipes | how)


def said(code: str, *words: object, **more: str) -> str:
    """What a piece of Python prints; its warnings are errors, unless `more` says otherwise, and its errors the test's."""
    told = environment(**{"PYTHONWARNINGS": "error"} | more)
    running = started("-c", textwrap.dedent(code), *words, env=told)
    out, err = running.communicate()
    assert running.returncode == 0, err
    return out
