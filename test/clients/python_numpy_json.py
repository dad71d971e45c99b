"""A trainer with numpy alone, over JSON: python_numpy_json.py http://127.0.0.1:3000/gradient"""

import base64
import json
import sys

import numpy
from problem import check, make_problem, post

MEDIA_TYPE = "application/json"


def as_base64(value):
    data = base64.b64encode(value.tobytes()).decode()
    return {"dtype": str(value.dtype), "shape": value.shape, "data": data}


def as_lists(value):
    return value.tolist()


def from_answer(tensor):
    if isinstance(tensor, list):
        return numpy.array(tensor, dtype=numpy.float32)
    data = base64.b64decode(tensor["data"])
    return numpy.frombuffer(data, tensor["dtype"]).reshape(tensor["shape"])


problem = make_problem(seed=2)
for encode in (as_base64, as_lists):
    body = json.dumps(problem, default=encode).encode()
    answer = json.loads(post(sys.argv[1], body, MEDIA_TYPE, MEDIA_TYPE))
    gradients = {
        projection: {name: from_answer(tensor) for name, tensor in pair.items()}
        for projection, pair in answer["gradients"].items()
    }
    check(f"JSON, {encode.__name__}", problem, gradients)
