"""Client of the loragrad service: gradients of LoRA adapters in attention layers, with error bars.

    from loragrad import Client

    client = Client("http://127.0.0.1:3000")
    result = client.gradient(hidden_states=x, q_proj={...}, k_proj={...}, v_proj={...}, grad_output=g)

For PyTorch see `loragrad.torch`: `attention`, an autograd function, and `attach` for PEFT models.
"""

from .capabilities import Capabilities
from .client import Client
from .errors import LoragradError, ProblemError, ServiceUnreachable, UnsupportedError
from .request import Projection, Request
from .result import (
    Certificate,
    Estimate,
    ForwardResult,
    GradientResult,
    PlanResult,
    TensorError,
    Threshold,
)

__version__ = "0.1.0"

__all__ = [
    "Capabilities",
    "Certificate",
    "Client",
    "Estimate",
    "ForwardResult",
    "GradientResult",
    "LoragradError",
    "PlanResult",
    "ProblemError",
    "Projection",
    "Request",
    "ServiceUnreachable",
    "TensorError",
    "Threshold",
    "UnsupportedError",
]
