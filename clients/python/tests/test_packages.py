"""numpy and msgpack are all that the package needs; what needs more says so."""

import subprocess
import sys

import pytest

LACKING = """
import sys
for name in {lacking}:
    sys.modules[name] = None
{code}
"""


def run(code, lacking):
    program = LACKING.format(lacking=lacking, code=code)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_the_client_needs_neither_torch_nor_peft():
    code = "from loragrad import Client; Client('http://127.0.0.1:1')"
    done = run(code, ["torch", "peft", "transformers"])
    assert done.returncode == 0, done.stderr


def test_attention_needs_no_peft():
    code = "from loragrad.torch import attention"
    done = run(code, ["peft", "transformers"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "lacking, code",
    [
        ("torch", "import loragrad.torch"),
        ("peft", "import loragrad.torch; loragrad.torch.attach(None, 'http://127.0.0.1:1')"),
        ("peft", "import loragrad.transformers"),
    ],
)
def test_what_is_missing_is_named(lacking, code):
    # The extra of that name brings Transformers as well.
    done = run(code, ["transformers"] if lacking == "peft" else [lacking])
    assert f"pip install 'loragrad[{lacking}]'" in done.stderr
