"""Tensors by reference: what does not change between steps travels once.

The service keeps tensors under the SHA-256 of their dtype, shape and data, and takes
`{"$ref": "sha256:<hex>"}` in place of a tensor. The contents are hashed at every call: neither the
identity of a tensor nor its version tells of changes made through `.data` or another view.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from .tensors import WireTensor

# Below this a reference saves next to nothing.
MIN_BYTES = 4096


@dataclass(frozen=True)
class Reference:
    """A tensor that goes by its hash, and its bytes for when the service lacks them."""

    sha256: str
    tensor: WireTensor

    @classmethod
    def of(cls, tensor: WireTensor) -> Reference:
        """Hex digest of ASCII `{dtype}\\n{shape joined by ,}\\n` and the little-endian data."""
        header = f"{tensor.dtype}\n{','.join(map(str, tensor.shape))}\n"
        digest = hashlib.sha256(header.encode())
        digest.update(tensor.data)
        return cls(digest.hexdigest(), tensor)

    @property
    def wire(self) -> dict[str, str]:
        return {"$ref": f"sha256:{self.sha256}"}
