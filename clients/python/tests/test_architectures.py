"""The table of the README is what the service does."""

import pytest

pytest.importorskip("transformers")

import architectures

from loragrad import Client

REFUSED = ("T5 (position bias)", "Mamba (no attention)")


@pytest.fixture(scope="module")
def verdicts(states_url):
    with Client(states_url) as client:
        text, verdicts = architectures.table(client)
    return text, verdicts


def test_every_model_is_right_or_refused(verdicts):
    for (name, column), verdict in verdicts[1].items():
        expected = ("refused:", "-") if name in REFUSED else ("right", "-")
        assert verdict.startswith(expected), f"{name}, {column}: {verdict}"


def test_the_readme_has_the_table(verdicts):
    assert verdicts[0] in architectures.README.read_text(), "python architectures.py --write"
