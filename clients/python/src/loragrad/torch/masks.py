"""Attention masks of Transformers, read as what the service knows: causal, with padding at the end."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedError
from .local import visible


class MaskReader:
    """Key lengths of a mask; the mask of a step is the same object in every layer and is read once."""

    def __init__(self) -> None:
        self._mask: weakref.ref[Any] | None = None
        self._lengths: list[int] | None = None

    def key_lengths(self, mask: Tensor | None, batch: int, length: int) -> list[int] | None:
        """Of each batch item; None when no key is padding.

        :param mask: None, or (B or 1, 1, L, L): bool, True where a key is seen, or added to the logits.
        """
        if mask is None:
            return None
        if self._mask is None or self._mask() is not mask:
            lengths = _read(mask, batch, length)
            self._lengths = None if lengths == [length] * batch else lengths
            self._mask = weakref.ref(mask)
        return self._lengths


def _read(mask: Tensor, batch: int, length: int) -> list[int]:
    if mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[2:] != (length, length):
        raise UnsupportedError(
            f"The attention mask has shape {tuple(mask.shape)}; expected {(batch, 1, length, length)}"
        )
    seen = mask
    if mask.dtype != torch.bool:
        seen = mask == 0
        hidden = mask <= torch.finfo(mask.dtype).min / 2
        if not torch.all(seen | hidden):
            raise UnsupportedError("The attention mask adds a bias to the logits")
    seen = seen.expand(batch, -1, -1, -1)
    lengths: list[int] = seen[:, 0, -1].sum(dim=-1).tolist()
    if not torch.equal(seen, visible(lengths, length, True, mask.device)):
        raise UnsupportedError(
            "The attention mask is not causal with padding at the end. Left padding, packed sequences, "
            "sliding windows and masks of one's own are not supported: pad on the right "
            "(tokenizer.padding_side = 'right')."
        )
    return lengths
