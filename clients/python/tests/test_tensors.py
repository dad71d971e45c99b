"""Tensors to the wire and back, whatever their layout in memory."""

import numpy as np
import pytest
import torch

from loragrad.body import Body
from loragrad.tensors import from_wire, to_wire


def read_only(array):
    array.flags.writeable = False
    return array


BASE = np.arange(24, dtype=np.float32).reshape(4, 6)
ARRAYS = {
    "row-major": BASE,
    "transposed": BASE.T,
    "sliced": BASE[1::2, ::3],
    "reversed": BASE[::-1, ::-1],
    "broadcast": np.broadcast_to(BASE[0], (5, 6)),
    "big-endian": BASE.astype(">f4"),
    "big-endian, sliced": BASE.astype(">f8")[:, 1::2],
    "read-only": read_only(BASE.copy()),
    "scalar": np.array(2.5, dtype=np.float64),
    "empty": np.empty((0, 3), dtype=np.float16),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_numpy(array):
    wire = to_wire(array)
    little = array.dtype.newbyteorder("<")
    assert bytes(wire.data) == array.astype(little).tobytes()
    back = from_wire({"dtype": wire.dtype, "shape": wire.shape, "data": bytes(wire.data)}, array)
    assert back.shape == array.shape and back.dtype == array.dtype and back.flags.writeable
    assert np.array_equal(back, array)


TORCH = torch.arange(24.0).reshape(4, 6)
TENSORS = {
    "transposed": TORCH.T,
    "sliced": TORCH[1::2, ::3],
    "expanded": TORCH[0].expand(5, 6),
    "parameter": torch.nn.Parameter(TORCH.clone()),
    "bfloat16": TORCH.bfloat16(),
    "float16, transposed": TORCH.half().T,
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 3),
    "inference": torch.inference_mode()(TORCH.clone)(),
}


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
def test_torch(tensor):
    wire = to_wire(tensor)
    back = from_wire({"dtype": wire.dtype, "shape": wire.shape, "data": bytes(wire.data)}, tensor)
    assert back.dtype == tensor.dtype and not back.requires_grad
    assert torch.equal(back, tensor)


def test_bytes_are_viewed_where_they_can_be():
    assert np.shares_memory(np.frombuffer(to_wire(BASE).data, np.uint8), BASE)
    assert np.shares_memory(np.frombuffer(to_wire(TORCH).data, np.uint8), TORCH.numpy())


def test_bfloat16_becomes_float32_where_there_is_no_model():
    wire = to_wire(torch.tensor([1.5, -3e38]).bfloat16())
    back = from_wire({"dtype": "bfloat16", "shape": [2], "data": bytes(wire.data)})
    assert back.dtype == np.float32 and back[0] == 1.5


@pytest.mark.parametrize("fields", [{"shape": [3]}, {"dtype": "int8"}, {"data": b""}])
def test_a_malformed_answer_is_found_out(fields):
    with pytest.raises(ValueError, match="malformed"):
        from_wire({"dtype": "float32", "shape": [2], "data": bytes(8), **fields})


def test_a_body_is_as_long_as_it_says():
    body = Body({"a": to_wire(np.ones(3_000_000, np.float32)), "b": [1, "two", np.float32(3)]})
    chunks = [bytes(chunk) for chunk in body.chunks()]
    assert sum(map(len, chunks)) == body.nbytes > 12_000_000
    assert b"".join(chunks) == b"".join(bytes(chunk) for chunk in body.chunks())
