"""PyTorch: attention layers whose gradients the service computes, and whole Transformers models."""

from typing import TYPE_CHECKING, Any

try:
    import torch as _  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError("loragrad.torch needs PyTorch: pip install 'loragrad[torch]'") from error

from .layer import attention
from .report import LayerReport, Step

if TYPE_CHECKING:
    from ..transformers import Handle, attach

__all__ = ["Handle", "LayerReport", "Step", "attach", "attention"]


def __getattr__(name: str) -> Any:
    """What needs Transformers is imported when it is used."""
    if name not in ("Handle", "attach"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .. import transformers

    return getattr(transformers, name)
