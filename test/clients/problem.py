"""A small attention layer with LoRA adapters, and its gradients by the formulas, in numpy alone."""

import sys
import urllib.error
import urllib.request

import numpy


def make_problem(seed=0, length=12, d_in=10, head_dim=6, rank=3, alpha=6.0):
    """The body of POST /gradient with numpy arrays for tensors. k_proj stays frozen."""
    random = numpy.random.default_rng(seed)

    def normal(*shape):
        return (random.standard_normal(shape) / numpy.sqrt(shape[-1])).astype(numpy.float32)

    def adapted():
        return {
            "weight": normal(head_dim, d_in),
            "lora_A": normal(rank, d_in),
            "lora_B": normal(head_dim, rank),
            "lora_alpha": alpha,
        }

    return {
        "hidden_states": random.standard_normal((length, d_in)).astype(numpy.float32),
        "q_proj": adapted(),
        "k_proj": {"weight": normal(head_dim, d_in), "bias": normal(head_dim)},
        "v_proj": adapted(),
        "is_causal": True,
        "grad_output": random.standard_normal((length, head_dim)).astype(numpy.float32),
    }


def expected_gradients(problem):
    """dLoss/d lora_A and dLoss/d lora_B of q_proj and v_proj, float64."""
    x = problem["hidden_states"].astype(numpy.float64)
    upstream = problem["grad_output"].astype(numpy.float64)

    def project(fields):
        weight = fields["weight"].astype(numpy.float64)
        if "lora_A" in fields:
            weight = weight + scaling(fields) * fields["lora_B"].astype(float) @ fields["lora_A"]
        return x @ weight.T + fields.get("bias", 0)

    def scaling(fields):
        return fields["lora_alpha"] / fields["lora_A"].shape[0]

    def adapter(fields, d_projection):
        s = scaling(fields)
        return {
            "lora_A": s * (d_projection @ fields["lora_B"]).T @ x,
            "lora_B": s * d_projection.T @ (x @ fields["lora_A"].T),
        }

    q, k, v = (project(problem[name]) for name in ("q_proj", "k_proj", "v_proj"))
    beta = 1 / numpy.sqrt(q.shape[1])
    scores = numpy.where(numpy.tri(len(q), len(k), dtype=bool), beta * q @ k.T, -numpy.inf)
    weights = numpy.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    output = weights @ v
    d_scores = weights * (upstream @ v.T - (upstream * output).sum(axis=1, keepdims=True))
    return {
        "q_proj": adapter(problem["q_proj"], beta * d_scores @ k),
        "v_proj": adapter(problem["v_proj"], weights.T @ upstream),
    }


def post(url, body, content_type, accept):
    """The body of the answer, as bytes; a problem of the service ends the script with its text."""
    headers = {"content-type": content_type, "accept": accept}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.code}: {error.read().decode()}")


def check(name, problem, gradients):
    """Compares the gradients of an answer, as numpy arrays, with the formulas."""
    expected = expected_gradients(problem)
    assert gradients.keys() == expected.keys(), f"{name}: gradients of {list(gradients)}"
    worst = 0.0
    for projection, pair in expected.items():
        assert gradients[projection].keys() == pair.keys(), f"{name}: {projection}"
        for tensor, truth in pair.items():
            measured = gradients[projection][tensor]
            assert isinstance(measured, numpy.ndarray), f"{name}: {type(measured)}"
            assert measured.dtype == numpy.float32, f"{name}: {measured.dtype}"
            assert measured.shape == truth.shape, f"{name}: {measured.shape}"
            error = numpy.linalg.norm(measured - truth) / numpy.linalg.norm(truth)
            worst = max(worst, float(error))
    assert worst < 2e-6, f"{name}: relative error {worst:.1e}"
    print(f"{name}: largest relative error {worst:.1e}")
