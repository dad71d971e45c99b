"""Transformers: attention whose gradients the service computes, by their own AttentionInterface."""

try:
    from transformers import AttentionMaskInterface as _  # noqa: F401
except ImportError as error:
    raise ImportError(
        "loragrad.transformers needs Transformers 5: pip install 'loragrad[peft]'"
    ) from error

from ..torch.report import LayerReport, Step
from .attaching import Handle, attach, register
from .callback import MetricsCallback
from .interface import IMPLEMENTATION
from .session import MINIMUM_LENGTH, Options

__all__ = [
    "IMPLEMENTATION",
    "MINIMUM_LENGTH",
    "Handle",
    "LayerReport",
    "MetricsCallback",
    "Options",
    "Step",
    "attach",
    "register",
]
