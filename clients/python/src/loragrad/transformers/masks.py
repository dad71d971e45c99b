"""Attention masks of Transformers, read as what the service knows: causal, windows, padding, packing.

A mask is read element by element, and what was read is compared with all of it: a mask is described
exactly or not at all, whoever made it and however.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

# Elements of the mask that are looked at together.
_BLOCK_ELEMENTS = 1 << 24


class Indescribable(ValueError):
    """The mask is none that the service knows; the message says what it is."""


def describe(mask: Tensor | None, is_causal: bool, query: Tensor, key: Tensor) -> dict[str, Any]:
    """Fields of a request: is_causal, window, key_lengths, first_keys, sequence_lengths.

    :param mask: (B or 1, 1, Lq or 1, Lk) of bool, True where a key is seen; None: `is_causal` says it.
    :param query, key: (B, H, Lq, d) and (B, Hkv, Lk, d), of which the sizes count.
    """
    batch, rows, keys = query.shape[0], query.shape[2], key.shape[2]
    if mask is None:
        # One row alone sees all keys, as in Transformers: it is the latest.
        return {"is_causal": True} if is_causal and rows > 1 else {}
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise Indescribable(f"its shape is {tuple(mask.shape)} and differs between heads")
    seen = mask[:, 0]
    # The items of an expanded mask are one and the same.
    items = 1 if seen.stride(0) == 0 else seen.shape[0]
    ranges = _ranges(seen[:items].expand(-1, rows, keys))
    description = _fit(ranges.expand(batch))
    if description is None:
        raise Indescribable(
            "it is not made of a causal limit, a window, padding and packed sequences"
        )
    return description


@dataclass(frozen=True)
class _Ranges:
    """Row i of item b sees the keys first[b, i] to last[b, i] - 1; (0, 0): none."""

    first: Tensor
    last: Tensor
    keys: int

    def expand(self, batch: int) -> _Ranges:
        return _Ranges(self.first.expand(batch, -1), self.last.expand(batch, -1), self.keys)

    @property
    def seeing(self) -> Tensor:
        return self.last > self.first


def _ranges(seen: Tensor) -> _Ranges:
    """Of a bool mask (B, Lq, Lk)."""
    batch, rows, keys = seen.shape
    step = max(1, _BLOCK_ELEMENTS // max(1, batch * keys))
    parts = [_range_of_rows(seen[:, row : row + step]) for row in range(0, rows, step)]
    first, last = (torch.cat(part, dim=1).cpu() for part in zip(*parts, strict=True))
    return _Ranges(first, last, keys)


def _range_of_rows(seen: Tensor) -> tuple[Tensor, Tensor]:
    counts = seen.sum(dim=-1)
    first = seen.to(torch.uint8).argmax(dim=-1)
    last = first + counts
    # Of two keys that are neighbours one is seen: at the ends of a range, and at those of every gap.
    ends = (seen[..., 1:] != seen[..., :-1]).sum(dim=-1)
    expected = (first > 0).long() + (last < seen.shape[-1]).long()
    if not torch.equal(torch.where(counts > 0, ends, 0), torch.where(counts > 0, expected, 0)):
        raise Indescribable("some row sees keys with others between them that it does not see")
    return first * (counts > 0), last * (counts > 0)


def _fit(ranges: _Ranges) -> dict[str, Any] | None:
    """The fields that make exactly these ranges; None when there are none."""
    for starts in (torch.zeros_like(ranges.first, dtype=torch.bool), _sequence_starts(ranges)):
        description = _fit_sequences(ranges, starts)
        if description is not None:
            return description
    return None


def _sequence_starts(ranges: _Ranges) -> Tensor:
    """(B, Lq): rows that see nothing before themselves begin a packed sequence."""
    position = torch.arange(ranges.first.shape[1])
    return ranges.seeing & (ranges.first == position) & (position > 0)


def _fit_sequences(ranges: _Ranges, starts: Tensor) -> dict[str, Any] | None:
    """The fields, if packed sequences begin at `starts` (B, Lq) and nowhere else."""
    first, last, keys, seeing = ranges.first, ranges.last, ranges.keys, ranges.seeing
    batch, rows = first.shape
    packed = bool(starts.any())
    if packed and rows != keys:
        return None
    position = torch.arange(rows)
    begin = torch.where(starts, position, 0).cummax(dim=1).values
    following = torch.where(starts, position, keys).flip(1).cummin(dim=1).values.flip(1)
    end = torch.cat((following[:, 1:], torch.full((batch, 1), keys)), dim=1)
    # Padding: what no row of an item sees at either end.
    low = torch.where(seeing, first, keys).amin(dim=1, keepdim=True)
    high = last.amax(dim=1, keepdim=True)
    begin, end = torch.maximum(begin, low), torch.minimum(end, high)
    # Rows without keys, in items that have some, lie too far before the first or behind the last one.
    blind = ~seeing & seeing.any(dim=1, keepdim=True)
    left = _distance(position - first, seeing & (first > begin), position - high, blind)
    right = _distance(last - 1 - position, seeing & (last < end), low - 1 - position, blind)
    if left is None or right is None:
        return None
    nearest = begin if left < 0 else torch.maximum(begin, position - left)
    farthest = end if right < 0 else torch.minimum(end, position + right + 1)
    visible = farthest > nearest
    if not (torch.equal(nearest * visible, first) and torch.equal(farthest * visible, last)):
        return None
    fields: dict[str, Any] = {}
    if right == 0:
        fields["is_causal"] = True
    if left >= 0 or right > 0:
        fields["window"] = [left, right]
    lengths, firsts = high[:, 0].tolist(), torch.where(high > 0, low, 0)[:, 0].tolist()
    if lengths != [keys] * batch:
        fields["key_lengths"] = lengths
    if any(firsts):
        fields["first_keys"] = firsts
    if packed:
        sequences = [_lengths(row, keys) for row in starts]
        same = all(sequence == sequences[0] for sequence in sequences)
        fields["sequence_lengths"] = sequences[0] if same else sequences
    return fields


def _distance(distances: Tensor, limited: Tensor, missing: Tensor, blind: Tensor) -> int | None:
    """How far rows see on one side, by those that something else than an end limits.

    :param missing: the farthest that a blind row may see without seeing a key; negative: it lies on the
        other side.
    :returns: -1: as far as they like. None: differently far, or not even to themselves.
    """
    values = distances[limited]
    if not len(values):
        return int(missing[blind & (missing >= 0)].min()) if (blind & (missing >= 0)).any() else -1
    distance = int(values[0])
    return distance if distance >= 0 and bool((values == distance).all()) else None


def _lengths(starts: Tensor, keys: int) -> list[int]:
    bounds = [0, *starts.nonzero()[:, 0].tolist(), keys]
    return [end - begin for begin, end in pairwise(bounds)]
