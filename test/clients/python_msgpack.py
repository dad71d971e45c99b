"""A trainer with numpy and msgpack: python_msgpack.py http://127.0.0.1:3000/gradient"""

import sys

import msgpack
import numpy
from problem import check, make_problem, post


def encode(value):
    """numpy arrays as the service's own tensors: a map of dtype, shape and data."""
    return {"dtype": str(value.dtype), "shape": list(value.shape), "data": value.tobytes()}


def decode(value):
    if value.keys() == {"dtype", "shape", "data"}:
        return numpy.frombuffer(value["data"], value["dtype"]).reshape(value["shape"])
    return value


problem = make_problem()
body = msgpack.packb(problem, default=encode)
for media_type in ("application/vnd.msgpack", "application/msgpack", "application/x-msgpack"):
    answer = msgpack.unpackb(post(sys.argv[1], body, media_type, media_type), object_hook=decode)
    check(f"msgpack, {media_type}", problem, answer["gradients"])
