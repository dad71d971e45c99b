"""PyTorch: an attention layer whose LoRA gradients the service computes, and PEFT models made of them."""

try:
    import torch as _  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError("loragrad.torch needs PyTorch: pip install 'loragrad[torch]'") from error

from .attaching import Handle, attach
from .layer import attention
from .report import LayerReport, Step

__all__ = ["Handle", "LayerReport", "Step", "attach", "attention"]
