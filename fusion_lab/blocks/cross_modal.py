"""Cross-modal attention: a modality's token reads the time steps of another."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fusion_lab.blocks.grouped import GroupedLinear
from fusion_lab.blocks.masking import blank, masked_softmax
from fusion_lab.blocks.randomness import Dropout, Noise


class CrossModalAttention(nn.Module):
    """Multi-head attention of A askers to the steps of each of N modalities, with weights of its own for each of the
    P = N A pairs.

    A query is folded into the weights of its keys and the steps are pooled before they are projected, so that a step
    costs D and not D^2. Queries and steps are normalised; scale and shift would be part of the projections, as the bias
    of a key is of nothing (see :class:`~fusion_lab.blocks.attention.Attention`).

    Args:
        asked: N.
        askers: A.
        width: D of a step.
        hidden: width of queries and answers, a multiple of ``heads``.
    """

    def __init__(self, asked: int, askers: int, width: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        assert hidden % heads == 0, f"{heads} heads do not divide a width of {hidden}"
        pairs, each = (asked, askers), hidden // heads
        self.query = GroupedLinear(asked * askers, hidden, hidden)
        self.key = nn.Parameter(torch.empty(*pairs, heads, each, width))
        self.value = nn.Parameter(torch.empty(*pairs, heads, width, each))
        self.bias = nn.Parameter(torch.zeros(*pairs, 1, heads, each))
        self.out = GroupedLinear(asked * askers, hidden, hidden)
        for weight, inputs in ((self.query.weight, hidden), (self.key, width), (self.value, width)):
            _fill(weight, inputs, hidden)
        _fill(self.out.weight, hidden, hidden)
        for layer in (self.query, self.out):
            nn.init.zeros_(layer.bias)
        self.dropout = Dropout(dropout)

    def forward(
        self, queries: Tensor, steps: Tensor, valid: Tensor, present: Tensor, noise: Noise | None
    ) -> tuple[Tensor, Tensor]:
        """Asks. The pairs of the first modality asked come first.

        Args:
            queries: ``[P,B,hidden]``.
            steps: ``[N,B,T,D]``.
            valid: bool ``[N,B,T]``.
            present: bool ``[P,B]``: whether the asker is there.
            noise: random values while training, ``None`` in evaluation.

        Returns:
            ``[P,B,hidden]``, and the weights ``[N,B,A,T]`` before dropout, averaged over heads: they sum to 1 over the
            valid steps, or are all 0 where there are none or the asker is absent.
        """
        keys = torch.nn.functional.layer_norm(blank(steps, valid), steps.shape[-1:])
        query = self.query(torch.nn.functional.layer_norm(queries, queries.shape[-1:]))
        q = query.reshape(*self.key.shape[:2], -1, *self.key.shape[2:4])  # [N,A,B,H,E]
        folded = torch.einsum("nabhe,nahed->nbahd", q * self.key.shape[3] ** -0.5, self.key)
        scores = torch.einsum("nbahd,nbtd->nbaht", folded, keys)
        here = present.reshape(*self.key.shape[:2], -1).transpose(1, 2)
        weights = masked_softmax(scores, (valid.unsqueeze(2) & here.unsqueeze(-1)).unsqueeze(3))
        used = self.dropout(weights, noise)
        pooled = torch.einsum("nbaht,nbtd->nbahd", used, keys)
        values = torch.einsum("nbahd,nahde->nabhe", pooled, self.value)
        share = used.sum(-1, keepdim=True).transpose(1, 2)  # a bias is weighed as every step's value is
        answers = (values + share * self.bias).reshape(queries.shape)
        return self.out(answers), weights.mean(3)


def _fill(weight: Tensor, inputs: int, outputs: int) -> None:
    bound = math.sqrt(6.0 / (inputs + outputs))  # Xavier
    nn.init.uniform_(weight, -bound, bound)
