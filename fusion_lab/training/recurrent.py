"""Recurrent layers of PyTorch's in a stack of folds."""

from __future__ import annotations

from functools import cache

import torch

_COMPOSITES = ("gru", "rnn_tanh", "rnn_relu")
"""Operations that PyTorch makes of simpler ones but, without a level of ``torch.func.grad``, not under ``vmap``."""


@cache
def teach_recurrent_layers() -> torch.library.Library:
    """Lets ``vmap`` take GRU and RNN layers apart into operations that it knows; once per process, for the process.

    An LSTM stays out: PyTorch has a kernel of one piece for it.

    >>> teach_recurrent_layers() is teach_recurrent_layers()
    True
    """
    library = torch.library.Library("aten", "IMPL")
    for name in _COMPOSITES:
        operation = getattr(torch.ops.aten, name).input

        def taken_apart(*arguments, _operation=operation):
            return _operation.decompose(*arguments)

        library.impl(operation, taken_apart, "FuncTorchBatched")
    return library
