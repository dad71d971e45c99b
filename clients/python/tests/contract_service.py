"""The contract of the service in PyTorch and Python's http.server, as exact as float64.

The same tests run against this and against the real service. Here they need no Node, and can look into
the traffic, make the service busy, small, forgetful or old.
"""

import hashlib
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgpack
import torch
import truth

MEDIA_TYPE = "application/vnd.msgpack"
#: Masks and the like of requests with attention states.
STATES_FIELDS = (
    *("is_causal", "scaling", "softcap", "sinks"),
    *("window", "key_lengths", "first_keys", "sequence_lengths"),
)
ESTIMATE = {
    "relative": 1e-7,
    "upper": 3e-7,
    "confidence": 0.99,
    "standard_error": 1e-8,
    "rows_sampled": 8,
}


class Problem(Exception):
    def __init__(self, status, kind, detail, **members):
        super().__init__(detail)
        self.status = status
        self.body = {
            "type": f"urn:loragrad:problem:{kind}",
            "title": kind,
            "status": status,
            "detail": detail,
            "instance": "1",
            **members,
        }


class ContractService:
    """`with ContractService() as service:` serves `service.url` in a thread.

    :param features: what it can do, of rotary, key_lengths, input_gradients, forward, store, states.
    :param store_bytes: room of the tensor store; the least recently used make way.
    """

    ALL = ("rotary", "key_lengths", "input_gradients", "forward", "store", "states")

    def __init__(self, features=ALL, store_bytes=1 << 30):
        self.features = features
        self.store_bytes = store_bytes
        self.stored = {}
        #: (method, path, bytes of body) of every request, in order.
        self.requests = []
        #: Headers of every request.
        self.headers = []
        #: Decoded bodies of POST requests, references unresolved.
        self.bodies = []
        #: Answers to give in place of the next ones: (status, headers), None for a broken connection.
        self.script = []
        self.connections = 0

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"service": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def openapi(self):
        properties = {
            "method": {"enum": ["auto", "exact", "sampled"]},
            "outputs": {"items": {"enum": ["gradients"]}},
        }
        paths = {"/gradient": {}, "/plan": {}, "/limits": {}}
        if "rotary" in self.features:
            properties |= {"cos": {}, "sin": {}}
        if "key_lengths" in self.features:
            properties["key_lengths"] = {}
        if "states" in self.features:
            names = ("query", "key", "value", "log_sum_exp", "inputs", *STATES_FIELDS)
            properties |= {name: {} for name in names}
        if "input_gradients" in self.features:
            properties["outputs"]["items"]["enum"].append("input_gradients")
        if "forward" in self.features:
            paths["/forward"] = {}
        if "store" in self.features:
            paths["/tensors/{sha256}"] = {}
        schema = {"properties": properties}
        return {
            "info": {"version": "0"},
            "components": {"schemas": {"GradientRequest": schema}},
            "paths": paths,
        }

    def put(self, sha256, tensor):
        header = f"{tensor['dtype']}\n{','.join(map(str, tensor['shape']))}\n".encode()
        if hashlib.sha256(header + tensor["data"]).hexdigest() != sha256:
            raise Problem(422, "hash-mismatch", "The hash is another.")
        if len(tensor["data"]) > self.store_bytes:
            raise Problem(413, "tensor-too-large", "Too large.", limit=self.store_bytes)
        self.stored[sha256] = tensor
        while sum(len(item["data"]) for item in self.stored.values()) > self.store_bytes:
            self.stored.pop(next(iter(self.stored)))

    def post(self, path, body):
        self.bodies.append(body)
        body = self._resolved(body)
        if body.get("method", "auto") not in ("auto", "exact", "sampled"):
            raise Problem(422, "invalid-value", "There is no other method.", pointer="/method")
        if not 0 < body.get("tolerance", 1) < math.inf:
            raise Problem(422, "invalid-value", "It must be above 0.", pointer="/tolerance")
        of_states = "query" in body
        if not of_states:
            x, projections, layer = _problem(body)
        answer = {
            "method": "exact",
            "reason": "There is no other.",
            "threshold": {
                "gamma": 1.0,
                "limit": 2.0,
                "ratio": 0.5,
                "below_threshold": True,
                "sequence_length": body["query" if of_states else "hidden_states"]["shape"][-2],
                "head_dim_over_log_length": 1.0,
                "norms": {"query": 1.0, "key": 1.0},
                "of_a_later_version": 1,
            },
            "plan": {"flops": 1, "exact_flops": 1},
            "timings_ms": {"total": 1.0},
        }
        if path == "/plan":
            return answer
        answer |= {"fallback": False, "seed": body.get("seed", 0)}
        if of_states:
            return answer | self._states_gradient(body)
        if path == "/forward":
            return answer | self._forward(body, x, projections, layer)
        return answer | self._gradient(body, x, projections, layer)

    def _forward(self, body, x, projections, layer):
        output = truth.attention(x.double(), truth.as_leaves(projections), **layer).detach()
        error = {"attention_output": {"estimate": None, "certificate": None}}
        return {"attention_output": _tensor(output, body["hidden_states"]), "error": error}

    def _states_gradient(self, body):
        names = [name for name in ("query", "key", "value", "sinks") if name in body]
        tensors = {name: _torch(body[name]) for name in names}
        layer = {name: body[name] for name in STATES_FIELDS if name in body and name != "sinks"}
        gradients, _ = truth.states_gradients(tensors, _torch(body["grad_output"]), **layer)
        return {
            "gradients": {name: _tensor(gradients[name], body[name]) for name in names},
            "error": {name: {"estimate": ESTIMATE, "certificate": None} for name in names},
        }

    def _gradient(self, body, x, projections, layer):
        given = {
            key: _batched(_torch(body[key])) for key in ("grad_output", "target") if key in body
        }
        adapters, grad_x, output, loss = truth.gradients(x, projections, **given, **layer)
        answer = {
            "gradients": {
                name: {part: _tensor(value, body[name][part]) for part, value in pair.items()}
                for name, pair in adapters.items()
            },
            "error": {
                f"{name}.{part}": {"estimate": ESTIMATE, "certificate": None}
                for name, pair in adapters.items()
                for part in pair
            },
        }
        outputs = body.get("outputs", ["gradients"])
        if "input_gradients" in outputs:
            answer["input_gradients"] = {"hidden_states": _tensor(grad_x, body["hidden_states"])}
        if "attention_output" in outputs:
            answer["attention_output"] = _tensor(
                output, body.get("target", body.get("grad_output"))
            )
        return answer | ({"loss": loss} if "target" in body else {})

    def _resolved(self, body):
        missing = []

        def resolve(value):
            if not isinstance(value, dict):
                return value
            if "$ref" in value:
                sha256 = value["$ref"].removeprefix("sha256:")
                if sha256 not in self.stored:
                    missing.append(value["$ref"])
                    return value
                # The last in the order is the one used last.
                self.stored[sha256] = self.stored.pop(sha256)
                return self.stored[sha256]
            return {key: resolve(item) for key, item in value.items()}

        body = resolve(body)
        if missing:
            raise Problem(409, "missing-tensors", "PUT them.", missing=missing)
        return body


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service = None

    def setup(self):
        self.service.connections += 1
        super().setup()

    def handle_one(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.service.requests.append((self.command, self.path, len(body)))
        self.service.headers.append(self.headers)
        if self.service.script:
            scripted = self.service.script.pop(0)
            if scripted is None:
                self.close_connection = True
                self.connection.close()
                return
            status, headers = scripted
            problem = Problem(status, "queue-full", "Busy.", limit=1, actual=2).body
            self._answer(status, json.dumps(problem).encode(), "application/problem+json", headers)
            return
        try:
            status, value = self._route(msgpack.unpackb(body) if body else None)
        except Problem as problem:
            text = json.dumps(problem.body).encode()
            self._answer(problem.status, text, "application/problem+json")
            return
        self._answer(status, b"" if value is None else msgpack.packb(value), MEDIA_TYPE)

    do_GET = do_POST = do_PUT = do_HEAD = handle_one

    def _route(self, body):
        service = self.service
        path, _, sha256 = self.path.rpartition("/")
        if path == "/tensors" and "store" in service.features:
            if self.command == "PUT":
                service.put(sha256, body)
                return 201, None
            if sha256 in service.stored:
                return 200, None
        elif self.path == "/openapi.json":
            return 200, service.openapi()
        elif self.path == "/limits":
            return 200, {"max_body_bytes": 1 << 30}
        elif self.command == "POST":
            return 200, service.post(self.path, body)
        raise Problem(404, "not-found", "Nothing is here.")

    def _answer(self, status, data, media_type, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


def _problem(body):
    names = {"num_attention_heads": "heads", "num_key_value_heads": "kv_heads"}
    layer = {
        names.get(key, key): body[key] for key in (*names, "scaling", "is_causal") if key in body
    }
    layer |= {key: _torch(body[key]) for key in ("cos", "sin") if key in body}
    if "key_lengths" in body:
        layer["key_lengths"] = body["key_lengths"]
    projections = {
        name: {
            key: _torch(value) if isinstance(value, dict) else value
            for key, value in body[name].items()
        }
        for name in truth.PROJECTIONS
    }
    return _batched(_torch(body["hidden_states"])), projections, layer


def _batched(tensor):
    return tensor if tensor.ndim == 3 else tensor[None]


def _torch(fields):
    dtype = getattr(torch, fields["dtype"])
    return torch.frombuffer(bytearray(fields["data"]), dtype=dtype).reshape(fields["shape"])


def _tensor(value, like):
    """On the wire, in the dtype and number of dimensions of another tensor on the wire."""
    value = value.to(getattr(torch, like["dtype"])).contiguous()
    if not value.isfinite().all():
        raise Problem(422, "not-finite", f"A gradient is too large for {like['dtype']}.")
    shape = list(value.shape)[-len(like["shape"]) :]
    return {
        "dtype": like["dtype"],
        "shape": shape,
        "data": value.view(torch.uint8).numpy().tobytes(),
    }
