"""Tensors of numpy and PyTorch to the wire and back: same library, device and dtype out as in.

PyTorch is never imported here: a torch tensor can only come from a program that has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np

if TYPE_CHECKING:
    import torch

    Tensor: TypeAlias = np.ndarray[Any, Any] | torch.Tensor
else:
    Tensor: TypeAlias = Any

ITEM_BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class WireTensor:
    """A tensor as the service takes it: little-endian, row-major `data` of prod(shape) items."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview

    @property
    def nbytes(self) -> int:
        return self.data.nbytes


def is_torch(value: object) -> TypeGuard[torch.Tensor]:
    module = sys.modules.get("torch")
    return module is not None and isinstance(value, module.Tensor)


def is_tensor(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, np.ndarray) or is_torch(value)


def dtype_name(tensor: Tensor) -> str:
    """float32, float64, float16 or bfloat16. Anything else is a TypeError."""
    # str(torch.float32) is "torch.float32"; str() of a numpy dtype may be "<f4", its name is not.
    name = str(getattr(tensor.dtype, "name", tensor.dtype)).removeprefix("torch.")
    if name not in ITEM_BYTES:
        known = ", ".join(ITEM_BYTES)
        raise TypeError(f"A tensor has dtype {name}; the service takes {known}")
    return name


def to_wire(tensor: Tensor) -> WireTensor:
    """Views the tensor's own memory where that is contiguous, little-endian and on the CPU."""
    if is_torch(tensor):
        array = _bytes_of_torch(tensor)
    elif isinstance(tensor, np.ndarray):
        array = _bytes_of_numpy(tensor)
    else:
        raise TypeError(f"Expected a numpy array or a torch tensor, not {type(tensor).__name__}")
    return WireTensor(dtype_name(tensor), tuple(tensor.shape), array.data)


def _bytes_of_numpy(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8)


def _bytes_of_torch(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    data: np.ndarray[Any, Any] = flat.view(torch.uint8).numpy()
    if sys.byteorder == "big":
        data = data.reshape(-1, flat.element_size())[:, ::-1].copy().reshape(-1)
    return data


def from_wire(fields: Mapping[str, Any], like: Tensor | None = None) -> Tensor:
    """An answered tensor in the library, device and dtype of `like`; numpy without one.

    bfloat16 has no numpy dtype: for numpy it becomes float32, without loss, unless `like` brings one.
    """
    name: str = fields["dtype"]
    shape: Sequence[int] = fields["shape"]
    data: bytes = fields["data"]
    if name not in ITEM_BYTES or len(data) != prod(shape) * ITEM_BYTES[name]:
        raise ValueError(
            f"The answer holds a malformed tensor of dtype {name}, shape {list(shape)}"
        )
    if like is not None and is_torch(like):
        return _torch_from(name, shape, data).to(device=like.device, dtype=like.dtype)
    if name == "bfloat16":
        halves = np.frombuffer(data, "<u2").astype(np.uint32)
        array = (halves << 16).view(np.float32).reshape(shape)
    else:
        array = np.frombuffer(data, np.dtype(name).newbyteorder("<")).reshape(shape)
    dtype: Any = array.dtype.newbyteorder("=") if like is None else like.dtype
    # A copy is writeable, native and does not hold the whole answer in memory.
    return array.astype(dtype, copy=True)


def _torch_from(name: str, shape: Sequence[int], data: bytes) -> torch.Tensor:
    import torch

    if sys.byteorder == "big":
        items = np.frombuffer(data, np.uint8).reshape(-1, ITEM_BYTES[name])
        data = items[:, ::-1].tobytes()
    dtype: torch.dtype = getattr(torch, name)
    if not data:
        return torch.empty(tuple(shape), dtype=dtype)
    # bytearray: torch wants memory that may be written to.
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(tuple(shape))
