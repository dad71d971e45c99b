"""The code of the README runs."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"^## (.+?)$.*?^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:3000"


@pytest.mark.parametrize("title, code", BLOCKS, ids=[title for title, _ in BLOCKS])
def test_code(client, needs, title, code):
    if "peft" in code:
        pytest.importorskip("peft")
        needs("rotary")
    assert ADDRESS in code
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(code.replace(ADDRESS, client.url), {})
    assert printed.getvalue()


def test_every_block_is_run():
    assert len(BLOCKS) == README.count("```python")
