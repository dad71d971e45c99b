"""Writes test/fixtures/wire-vectors.json: bodies as the Python packages msgpack and msgpack-numpy make them.

    pip install msgpack msgpack-numpy numpy
    python test/tensor/make_vectors.py
"""
import json
import pathlib

import msgpack
import msgpack_numpy
import numpy as np

VALUES = [[0.0, -1.5, 0.25], [2.0 ** -14, 65504.0, 2.0 ** -24]]


def numpy_body(value):
    return msgpack.packb(value, default=msgpack_numpy.encode).hex()


arrays = {
    name: np.array(VALUES, dtype=name) for name in ("float16", "float32", "float64")
}
scalars = {
    "float16": np.float16(0.5), "float32": np.float32(0.25), "float64": np.float64(0.1),
    "int8": np.int8(-3), "uint8": np.uint8(200), "int16": np.int16(-300), "uint16": np.uint16(60000),
    "int32": np.int32(-70000), "uint32": np.uint32(4_000_000_000), "int64": np.int64(-(2 ** 40)),
    "uint64": np.uint64(2 ** 40), "bool": np.bool_(True),
}
refused = {
    "big endian": np.array(VALUES, dtype=">f4"),
    "integers in two dimensions": np.arange(6, dtype="<i8").reshape(2, 3),
    "bool array": np.array([True, False]),
    "complex array": np.array([1j]),
    "complex number": 1j,
    "structured": np.zeros(2, dtype=[("a", "<f4"), ("b", "<f4")]),
    "object": np.array([{}], dtype=object),
    "void (bfloat16 of ml_dtypes)": np.zeros(2, dtype="V2"),
    "empty": np.zeros((0, 3), dtype="<f4"),
    "inside a list": [{"x": np.arange(6).reshape(2, 3)}],
}
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
vectors = {
    "values": VALUES,
    # What the service writes in the numpy dialect must be the same bytes.
    "numpy": {name: numpy_body({"x": array}) for name, array in arrays.items()},
    "fortran": numpy_body({"x": np.asfortranarray(arrays["float32"])}),
    "scalars": {name: [numpy_body({"x": value}), value.item()] for name, value in scalars.items()},
    # Lengths of sequences: 1, 2, 100.
    "integers": {name: numpy_body({"x": np.array([1, 2, 100], dtype=name)}) for name in INTEGERS},
    "refused": {name: numpy_body({"x": value}) for name, value in refused.items()},
    "old_msgpack": msgpack.packb(
        {"x": np.array([1.0, -2.0], dtype="<f4")}, default=msgpack_numpy.encode, use_bin_type=False
    ).hex(),
    "tensor": {
        name: msgpack.packb(
            {"x": {"dtype": name, "shape": array.shape, "data": array.tobytes()}}
        ).hex()
        for name, array in arrays.items()
    },
    "plain": msgpack.packb(
        {"é": "漢字", "n": None, "t": True, "i": -5, "u": 2 ** 33, "f": 0.5, "l": ["a", []], "m": {}}
    ).hex(),
}
path = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "wire-vectors.json"
path.write_text(json.dumps(vectors, indent=1) + "\n")
