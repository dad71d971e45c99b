"""MessagePack bodies as a list of buffers, so that the data of tensors is sent without a copy."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import msgpack
import numpy as np

from .tensors import WireTensor

MEDIA_TYPE = "application/vnd.msgpack"
MAX_BIN_BYTES = 2**32 - 1
# Large enough that the overhead of a write does not count, small enough to show progress.
CHUNK_BYTES = 1 << 20


class Body:
    """One MessagePack value, of known length, that can be sent more than once (retries)."""

    def __init__(self, value: Any):
        self._buffers: list[bytes | memoryview] = []
        self._packer = msgpack.Packer(use_bin_type=True)
        self._pack(value)
        self.nbytes = sum(memoryview(buffer).nbytes for buffer in self._buffers)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Pieces of at most CHUNK_BYTES; small neighbours travel together."""
        small = bytearray()
        for buffer in self._buffers:
            if len(buffer) + len(small) <= CHUNK_BYTES:
                small += buffer
                continue
            if small:
                yield bytes(small)
                small.clear()
            view = memoryview(buffer)
            for start in range(0, view.nbytes, CHUNK_BYTES):
                yield view[start : start + CHUNK_BYTES]
        if small:
            yield bytes(small)

    def _pack(self, value: Any) -> None:
        if isinstance(value, WireTensor):
            shape = list(value.shape)
            self._map({"dtype": value.dtype, "shape": shape, "data": value.data})
        elif isinstance(value, memoryview):
            if value.nbytes > MAX_BIN_BYTES:
                raise ValueError(
                    f"A tensor has {value.nbytes} bytes; MessagePack holds 4 GiB at most"
                )
            self._buffers += [b"\xc6" + struct.pack(">I", value.nbytes), value]
        elif isinstance(value, Mapping):
            self._map(value)
        elif isinstance(value, (list, tuple)):
            self._buffers.append(self._packer.pack_array_header(len(value)))
            for item in value:
                self._pack(item)
        else:
            self._buffers.append(self._packer.pack(_plain(value)))

    def _map(self, value: Mapping[str, Any]) -> None:
        self._buffers.append(self._packer.pack_map_header(len(value)))
        for key, item in value.items():
            self._buffers.append(self._packer.pack(key))
            self._pack(item)


def _plain(value: Any) -> Any:
    """numpy scalars (np.float32(16)) as the Python numbers they stand for."""
    return value.item() if isinstance(value, np.generic) else value
