"""Hooks of schemathesis: bodies and answers in MessagePack, and tensors that fit each other.

Which shapes fit each other cannot be said in a JSON schema. So part of the bodies get tensors of fitting
shapes, that the kernels are reached and their answers are held against their schemas; the others stay as
they were drawn, and are refused.
"""

import base64
import math
import random

import msgpack
import schemathesis

MSGPACK = ("application/vnd.msgpack", "application/msgpack", "application/x-msgpack")


def map_tensors(value, change):
    """A copy with every tensor map changed."""
    if isinstance(value, dict):
        if {"dtype", "shape", "data"} <= value.keys():
            return change(value)
        return {key: map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [map_tensors(item, change) for item in value]
    return value


def within_64_bits(value):
    """MessagePack has no longer integers; such a number goes as a float."""
    if isinstance(value, dict):
        return {key: within_64_bits(item) for key, item in value.items()}
    if isinstance(value, list):
        return [within_64_bits(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value) if abs(value) < 2**1000 else math.copysign(math.inf, value)
    return value


def to_bytes(tensor):
    try:
        return {**tensor, "data": base64.b64decode(tensor["data"], validate=True)}
    except (TypeError, ValueError):
        return tensor


def to_base64(tensor):
    return {**tensor, "data": base64.b64encode(tensor["data"]).decode()}


@schemathesis.serializer(*MSGPACK)
def serialize(context, value):
    if isinstance(value, bytes):
        return value
    return msgpack.packb(within_64_bits(map_tensors(value, to_bytes)))


@schemathesis.deserializer(*MSGPACK)
def deserialize(context, response):
    return map_tensors(msgpack.unpackb(response.content), to_base64)


def fitting(shape, draw):
    if len(shape) == 1:
        return [draw.uniform(-1, 1) for _ in range(shape[0])]
    return [fitting(shape[1:], draw) for _ in range(shape[0])]


SQUARE = ("hidden_states", "query_states", "key_states", "value_states", "target", "grad_output")


@schemathesis.hook
def map_body(context, body):
    """Tensors of two by two, from a seed that the body gives."""
    if not isinstance(body, dict) or "q_proj" not in body:
        return body
    draw = random.Random(repr(sorted(body)) + repr(body.get("seed")))
    if draw.random() < 0.3:
        return body
    fit = dict(body)
    for key in SQUARE:
        if key in fit:
            fit[key] = fitting([2, 2], draw)
    for name in ("q_proj", "k_proj", "v_proj"):
        if not isinstance(fit.get(name), dict):
            continue
        projection = dict(fit[name])
        shapes = {"weight": [2, 2], "lora_A": [1, 2], "lora_B": [2, 1], "bias": [2]}
        for key, shape in shapes.items():
            if key in projection:
                projection[key] = fitting(shape, draw)
        fit[name] = projection
    return fit
