"""What the service computes, written once more and plainly: explicit softmax, one head at a time."""

import math

import torch

PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def attention(x, projections, *, heads=1, kv_heads=None, scaling=None, is_causal=False, **more):
    """x (B, L, d_in) -> O (B, L, H dv); `more`: cos, sin (L, d), key_lengths (B)."""
    kv_heads = kv_heads or heads
    q, k, v = (_project(x, projections[name]) for name in PROJECTIONS)
    width, value_width = q.shape[-1] // heads, v.shape[-1] // kv_heads
    beta = scaling or 1 / math.sqrt(width)
    length = x.shape[1]
    hidden = torch.zeros(len(x), length, length, dtype=torch.bool)
    if is_causal:
        hidden |= torch.ones(length, length).triu(1).bool()
    if more.get("key_lengths") is not None:
        for item, keys in enumerate(more["key_lengths"]):
            hidden[item, :, keys:] = True
    outputs = []
    for head in range(heads):
        pair = head // (heads // kv_heads)
        q_head = _rotated(q[..., head * width : (head + 1) * width], more)
        k_head = _rotated(k[..., pair * width : (pair + 1) * width], more)
        v_head = v[..., pair * value_width : (pair + 1) * value_width]
        scores = (beta * q_head @ k_head.transpose(1, 2)).masked_fill(hidden, -math.inf)
        outputs.append(torch.softmax(scores, dim=-1) @ v_head)
    return torch.cat(outputs, dim=-1)


def _project(x, fields):
    weight = fields["weight"]
    if fields.get("lora_A") is not None:
        rank = len(fields["lora_A"])
        alpha = fields.get("lora_alpha", rank)
        scaling = alpha / math.sqrt(rank) if fields.get("use_rslora") else alpha / rank
        weight = weight + scaling * fields["lora_B"] @ fields["lora_A"]
    bias = fields.get("bias")
    return x @ weight.T + (0 if bias is None else bias)


def _rotated(states, more):
    """Element c of the first half and element c of the second turn by the angle of (row, c)."""
    if more.get("cos") is None:
        return states
    half = states.shape[-1] // 2
    a, b = states[..., :half], states[..., half:]
    cos, sin = more["cos"], more["sin"]
    first = a * cos[:, :half] - b * sin[:, :half]
    second = b * cos[:, half:] + a * sin[:, half:]
    return torch.cat((first, second), dim=-1)


def as_leaves(projections, dtype=torch.float64):
    """Leaves of that dtype; adapters require a gradient."""
    leaves = {}
    for name in PROJECTIONS:
        leaves[name] = {
            key: value.detach().to(dtype, copy=True).requires_grad_(key.startswith("lora_"))
            if isinstance(value, torch.Tensor)
            else value
            for key, value in projections[name].items()
        }
    return leaves


def gradients(x, projections, grad_output=None, target=None, *, dtype=torch.float64, **layer):
    """Gradients of the adapters and of x, the output, and the loss, all computed in `dtype`."""
    x = x.detach().to(dtype, copy=True).requires_grad_()
    projections = as_leaves(projections, dtype)
    for key in ("cos", "sin"):
        if layer.get(key) is not None:
            layer[key] = layer[key].to(dtype)
    output = attention(x, projections, **layer)
    if target is not None:
        loss = 0.5 * ((output - target.to(dtype)) ** 2).sum()
    else:
        loss = (output * grad_output.to(dtype)).sum()
    loss.backward()
    adapters = {
        name: {part: fields[part].grad for part in ("lora_A", "lora_B")}
        for name, fields in projections.items()
        if fields.get("lora_A") is not None
    }
    return adapters, x.grad, output.detach(), loss.item()


def relative(measured, expected):
    """Frobenius norm of the difference over that of what is expected."""
    return float((measured.double() - expected).norm() / expected.norm())
