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


def states_attention(query, key, value, sinks=None, *, scaling=None, softcap=None, **masks):
    """(B, Lq, H, d), (B, Lk, Hkv, d), (B, Lk, Hkv, dv) -> (B, Lq, H, dv); rows without keys: 0."""
    group = query.shape[2] // key.shape[2]
    key, value = (states.repeat_interleave(group, dim=2) for states in (key, value))
    beta = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    scores = beta * torch.einsum("bihd,bjhd->bhij", query, key)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    seen = visible(len(query), query.shape[1], key.shape[1], **masks)[:, None]
    scores = scores.masked_fill(~seen, -math.inf)
    # Subtracted from everything in a row, sinks included, so that no exponential overflows.
    largest = scores.detach().amax(dim=-1, keepdim=True)
    if sinks is not None:
        largest = torch.maximum(largest, sinks.detach()[:, None, None])
    largest = largest.masked_fill(largest == -math.inf, 0)
    weights = torch.exp(scores - largest)
    total = weights.sum(dim=-1, keepdim=True)
    if sinks is not None:
        total = total + torch.exp(sinks[:, None, None] - largest)
    weights = weights / total.masked_fill(total == 0, 1)
    return torch.einsum("bhij,bjhe->bihe", weights, value)


def visible(
    batch,
    rows,
    keys,
    *,
    is_causal=False,
    window=(-1, -1),
    key_lengths=None,
    first_keys=None,
    sequence_lengths=None,
):
    """(B, Lq, Lk), which keys a row sees, as the contract says it."""
    i, j = torch.arange(rows)[:, None], torch.arange(keys)[None, :]
    seen = torch.ones(batch, rows, keys, dtype=torch.bool)
    left, right = window
    if is_causal:
        seen &= j <= i
    if left >= 0:
        seen &= j >= i - left
    if right >= 0:
        seen &= j <= i + right
    for item in range(batch):
        if key_lengths is not None:
            seen[item] &= j < key_lengths[item]
        if first_keys is not None:
            seen[item] &= j >= first_keys[item]
        if sequence_lengths is not None:
            lengths = sequence_lengths
            if isinstance(lengths[0], list):
                lengths = lengths[item]
            number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
            seen[item] &= number[:, None] == number[None, :]
    return seen


def states_gradients(tensors, grad_output, *, dtype=torch.float64, **layer):
    """Gradients by name, and the output, computed in `dtype`."""
    leaves = {name: t.detach().to(dtype, copy=True).requires_grad_() for name, t in tensors.items()}
    output = states_attention(**leaves, **layer)
    (output * grad_output.to(dtype)).sum().backward()
    return {name: leaf.grad for name, leaf in leaves.items()}, output.detach()


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
    first = a * cos[..., :half] - b * sin[..., :half]
    second = b * cos[..., half:] + a * sin[..., half:]
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
