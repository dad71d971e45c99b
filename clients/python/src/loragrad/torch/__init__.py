"""PyTorch: an attention layer whose LoRA gradients the service computes, and PEFT models made of them."""

from .attaching import Handle, attach
from .layer import attention
from .report import LayerReport, Step

__all__ = ["Handle", "LayerReport", "Step", "attach", "attention"]
