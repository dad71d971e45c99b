"""Random attention layers for the tests."""

import torch


def make(
    seed=0,
    dtype=torch.float32,
    batch=2,
    length=24,
    d_in=20,
    heads=4,
    kv_heads=2,
    head_dim=6,
    rank=3,
    adapted=("q_proj", "k_proj", "v_proj"),
    bias=(),
    rotary=False,
):
    """x (B, L, d_in), projections, grad (B, L, H d), and the keywords of the layer."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return (scale * torch.randn(*shape, generator=random, dtype=torch.float64)).to(dtype)

    projections = {}
    for name in ("q_proj", "k_proj", "v_proj"):
        out = (heads if name == "q_proj" else kv_heads) * head_dim
        fields = {"weight": normal(out, d_in, scale=d_in**-0.5)}
        if name in bias:
            fields["bias"] = normal(out, scale=0.3)
        if name in adapted:
            fields["lora_A"] = normal(rank, d_in, scale=d_in**-0.5)
            fields["lora_B"] = normal(out, rank, scale=0.3)
            fields["lora_alpha"] = 2.0 * rank
        projections[name] = fields
    layer = {"heads": heads, "kv_heads": kv_heads, "is_causal": True}
    if rotary:
        layer["cos"], layer["sin"] = tables(length, head_dim, dtype)
    return normal(batch, length, d_in), projections, normal(batch, length, heads * head_dim), layer


def tables(length, head_dim, dtype):
    """Rotary tables (L, d) as Transformers computes them."""
    frequencies = 10000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.arange(length)[:, None] * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def request_of(layer):
    """The keywords of `truth.attention` as those of a request."""
    names = {"heads": "num_attention_heads", "kv_heads": "num_key_value_heads"}
    return {names.get(key, key): value for key, value in layer.items()}
