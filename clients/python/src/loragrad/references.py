"""Tensors by reference: what does not change between steps travels once.

The service keeps tensors under the SHA-256 of their dtype, shape and data, and takes
`{"$ref": "sha256:<hex>"}` in place of a tensor. Here: the hashes, remembered while that is safe, and
which of them the service is believed to hold.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .tensors import Tensor, WireTensor, is_torch, to_wire

# Below this a reference saves next to nothing.
MIN_BYTES = 4096
_PROBES = 1024


def sha256_of(tensor: WireTensor) -> str:
    """Hex digest of ASCII `{dtype}\\n{shape joined by ,}\\n` and the little-endian data."""
    digest = hashlib.sha256(f"{tensor.dtype}\n{','.join(map(str, tensor.shape))}\n".encode())
    digest.update(tensor.data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Reference:
    """A tensor that goes by its hash; `load` gives its bytes when the service lacks them."""

    sha256: str
    load: Callable[[], WireTensor]

    @property
    def wire(self) -> dict[str, str]:
        return {"$ref": f"sha256:{self.sha256}"}


@dataclass(frozen=True)
class _Known:
    alive: weakref.ref[Any]
    fingerprint: tuple[Any, ...]
    sha256: str


class HashMemory:
    """SHA-256 of tensors, remembered by identity and version.

    A torch tensor counts its in-place changes (`_version`), but not those made through `.data`, as PEFT
    does when it merges an adapter; so a thousand of its elements, spread evenly, are compared as well.
    Tensors of torch.inference_mode and numpy arrays count nothing: they are hashed every time, but for
    arrays that are read-only, as all that they view.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}
        self._lock = threading.Lock()

    def sha256(self, tensor: Tensor) -> str:
        fingerprint = _fingerprint(tensor)
        if fingerprint is None:
            return sha256_of(to_wire(tensor))
        key = id(tensor)
        with self._lock:
            known = self._known.get(key)
        if known and known.alive() is tensor and known.fingerprint == fingerprint:
            return known.sha256
        digest = sha256_of(to_wire(tensor))
        # When the tensor dies its id may be given to another: forget it then.
        alive = weakref.ref(tensor, lambda _: self._known.pop(key, None))
        with self._lock:
            self._known[key] = _Known(alive, fingerprint, digest)
        return digest


def _fingerprint(tensor: Tensor) -> tuple[Any, ...] | None:
    """What changes when the contents do; None when nothing tells."""
    if is_torch(tensor):
        if tensor.is_inference():
            return None
        probes = tensor.detach().reshape(-1)[:: max(1, tensor.numel() // _PROBES)]
        sample = to_wire(probes).data.tobytes()
        return (tensor.data_ptr(), tensor._version, str(tensor.dtype), tuple(tensor.shape), sample)
    array: object = tensor
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return None
        array = array.base
    # A base that is no array (bytes, a memory map) is beyond what numpy can vouch for.
    return () if array is None else None
