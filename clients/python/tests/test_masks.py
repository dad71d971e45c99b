"""Masks of Transformers read as fields of a request: what is read makes the same mask again."""

import os

import pytest
import torch
import truth

pytest.importorskip("transformers")

from transformers.masking_utils import (
    and_masks,
    causal_mask_function,
    chunked_causal_mask_function,
    packed_sequence_mask_function,
    sdpa_mask,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)

from loragrad.transformers import masks
from loragrad.transformers.masks import Indescribable, describe

SEED = int(os.environ.get("LORAGRAD_TEST_SEED", "1"))


def read(mask):
    """The fields of a mask (B, 1, Lq, Lk)."""
    batch, _, rows, keys = mask.shape
    return describe(mask, True, torch.empty(batch, 1, rows, 1), torch.empty(batch, 1, keys, 1))


def check(mask):
    """Reads the mask; what was read makes it again."""
    fields = read(mask)
    batch, _, rows, keys = mask.shape
    assert torch.equal(truth.visible(batch, rows, keys, **fields), mask[:, 0])
    return fields


def random_fields(random, batch, rows, keys):
    def integer(low, high):
        return int(torch.randint(low, high, (), generator=random))

    fields = {}
    if integer(0, 2):
        fields["is_causal"] = True
    if integer(0, 2):
        fields["window"] = [integer(-1, keys), integer(-1, keys)]
    if integer(0, 2):
        fields["key_lengths"] = [integer(0, keys + 1) for _ in range(batch)]
    if integer(0, 2):
        fields["first_keys"] = [integer(0, keys) for _ in range(batch)]
    return fields


@pytest.mark.parametrize("case", range(60))
def test_everything_but_packing(case, monkeypatch):
    """Causal, windows, padding at both ends, rows and keys of any number, in any combination."""
    monkeypatch.setattr(masks, "_BLOCK_ELEMENTS", 50)
    print(f"LORAGRAD_TEST_SEED={SEED}")
    random = torch.Generator().manual_seed(SEED + case)
    rows, keys = torch.randint(1, 14, (2,), generator=random).tolist()
    fields = random_fields(random, 3, rows, keys)
    check(truth.visible(3, rows, keys, **fields)[:, None])


@pytest.mark.parametrize("case", range(20))
def test_packed_sequences(case):
    print(f"LORAGRAD_TEST_SEED={SEED}")
    random = torch.Generator().manual_seed(SEED + case)
    cuts = torch.randint(0, 2, (2, 15), generator=random).bool()
    cuts = [row.nonzero()[:, 0].add(1).tolist() for row in cuts]
    lengths = [torch.diff(torch.tensor([0, *row, 16])).tolist() for row in cuts]
    fields = {"is_causal": True, "sequence_lengths": lengths}
    if case % 2:
        fields["window"] = [2, 0]
    check(truth.visible(2, 16, 16, **fields)[:, None])


def test_functions_of_transformers():
    padding = torch.ones(2, 12, dtype=torch.bool)
    padding[0, :4] = False
    packed = torch.tensor([[0] * 5 + [1] * 7, [0] * 12])
    sizes = {"batch_size": 2, "q_length": 12, "kv_length": 12, "allow_is_causal_skip": False}

    def made(function, **more):
        return check(sdpa_mask(**{**sizes, **more}, mask_function=function))

    assert made(causal_mask_function) == {"is_causal": True}
    assert made(causal_mask_function, attention_mask=padding)["first_keys"] == [4, 0]
    window = {"is_causal": True, "window": [3, 0]}
    assert made(sliding_window_causal_mask_function(4)) == window
    assert made(sliding_window_bidirectional_mask_function(3)) == {"window": [3, 3]}
    function = and_masks(causal_mask_function, packed_sequence_mask_function(packed))
    assert made(function)["sequence_lengths"] == [[5, 7], [12]]
    chunked = chunked_causal_mask_function(5, torch.zeros(2, dtype=torch.long))
    assert made(chunked)["sequence_lengths"] == [5, 5, 2]
    # A cache that holds eight tokens.
    assert made(causal_mask_function, q_length=4, q_offset=8) == {"window": [-1, 8]}


def test_no_mask():
    query, key = torch.empty(1, 1, 4, 1), torch.empty(1, 1, 6, 1)
    assert describe(None, True, query, key) == {"is_causal": True}
    assert describe(None, False, query, key) == {}
    assert describe(None, True, query[:, :, :1], key) == {}


def indescribable(name):
    seen = truth.visible(2, 12, 12, is_causal=True)
    if name == "a hole":
        seen[1, 7, 3] = False
    elif name == "a prefix that sees itself":
        seen[0, :4, :4] = True
    elif name == "windows of two widths":
        seen[0] &= truth.visible(1, 12, 12, window=[3, -1])[0]
        seen[1] &= truth.visible(1, 12, 12, window=[4, -1])[0]
    elif name == "rows that do not see themselves":
        seen &= ~torch.eye(12, dtype=torch.bool)
    elif name == "a row without keys among others":
        seen[0, 6] = False
    else:
        mask = seen[:, None].expand(-1, 2, -1, -1).clone()
        mask[0, 1, 5, 5] = False
        return mask
    return seen[:, None]


@pytest.mark.parametrize(
    "name",
    [
        "a hole",
        "a prefix that sees itself",
        "windows of two widths",
        "rows that do not see themselves",
        "a row without keys among others",
        "masks that differ between heads",
    ],
)
def test_masks_that_no_request_can_say(name):
    with pytest.raises(Indescribable):
        read(indescribable(name))


def test_one_element_of_a_mask_is_enough():
    """Whatever single element is turned: the mask is read as it is, or not at all."""
    mask = truth.visible(1, 9, 9, is_causal=True, window=[4, 0])[:, None]
    for row in range(9):
        for key in range(9):
            other = mask.clone()
            other[0, 0, row, key] = ~other[0, 0, row, key]
            try:
                check(other)
            except Indescribable:
                continue
