"""Consecutive samples of a sequence as one time step."""

from __future__ import annotations

import torch
from torch import Tensor

from fusion_lab.blocks.masking import blank


def patch_count(length: int, size: int) -> int:
    """T of ``length`` samples in patches of ``size``, the first of which may be padded in front.

    >>> patch_count(10, 4)
    3
    """
    return -(-length // size)


def to_patches(x: Tensor, valid: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """``size`` samples side by side, counted from the end; the first patch is filled up in front with zeros.

    Args:
        x: ``[B,T,F]``.
        valid: bool ``[B,T]``; a sample that is not valid is 0 in its patch.
        size: samples of a patch.

    Returns:
        ``[B,T/size,size*F]``, and which patches have a valid sample, bool ``[B,T/size]``.

    >>> x, valid = to_patches(torch.arange(1.0, 4.0).reshape(1, 3, 1), torch.tensor([[False, True, True]]), 2)
    >>> x.tolist(), valid.tolist()
    ([[[0.0, 0.0], [2.0, 3.0]]], [[False, True]])
    """
    if size == 1:
        return x, valid
    rows, length, width = x.shape
    count = patch_count(length, size)
    front = count * size - length
    whole = torch.nn.functional.pad(blank(x, valid), (0, 0, front, 0))
    there = torch.nn.functional.pad(valid, (front, 0))
    return whole.reshape(rows, count, size * width), there.reshape(rows, count, size).any(-1)
