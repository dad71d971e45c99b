"""The code of the README runs, and so does that of the service's own."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1]
READMES = [(at / "README.md").read_text() for at in (FOLDER, FOLDER.parents[1])]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [block for readme in READMES for block in BLOCK.findall(readme)]
ADDRESS = "http://127.0.0.1:3000"


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_code(client, needs, code):
    if "transformers" in code:
        pytest.importorskip("peft")
        needs("attention_states")
    assert ADDRESS in code
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(code.replace(ADDRESS, client.url), {})
    assert printed.getvalue()


def test_every_block_is_run():
    assert len(BLOCKS) == sum(readme.count("```python") for readme in READMES)
