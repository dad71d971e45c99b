"""A trainer with msgpack-numpy: python_msgpack_numpy.py http://127.0.0.1:3000/gradient"""

import sys

import msgpack
import msgpack_numpy
import numpy
from problem import check, make_problem, post

MEDIA_TYPE = "application/msgpack"

problem = make_problem(seed=1)
# numpy scalars are as likely as Python numbers in a script that uses numpy throughout.
problem["q_proj"]["lora_alpha"] = numpy.float32(6)
problem["num_attention_heads"] = numpy.int64(1)
body = msgpack.packb(problem, default=msgpack_numpy.encode)
answer = msgpack.unpackb(
    post(sys.argv[1], body, MEDIA_TYPE, MEDIA_TYPE), object_hook=msgpack_numpy.decode
)
check("msgpack-numpy", problem, answer["gradients"])
