"""Some rows of a data set: a smaller one for a first look, with the same shares of every label and whole groups."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fusion_lab.contracts import Batch, DataError, Dataset, Provenance, Source, Spec, array_hash
from fusion_lab.data.dealing import deal, items_of
from fusion_lab.data.portions import targets_of


@dataclass(frozen=True)
class Subset:
    """The rows ``rows``, int [S], of a data set; implements :class:`fusion_lab.contracts.Dataset`.

    ``why`` is the first of its notes: who reads a score is to know that it is one of these rows.
    """

    whole: Dataset
    rows: np.ndarray
    why: str

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def spec(self) -> Spec:
        return self.whole.spec

    @property
    def ids(self) -> np.ndarray:
        return self.whole.ids[self.rows]

    @property
    def group(self) -> np.ndarray | None:
        return self._some(self.whole.group)

    @property
    def order(self) -> np.ndarray | None:
        return self._some(self.whole.order)

    @property
    def recording(self) -> np.ndarray | None:
        return self._some(self.whole.recording)

    @property
    def given_split(self) -> np.ndarray | None:
        return self._some(self.whole.given_split)

    @property
    def given_fold(self) -> np.ndarray | None:
        return self._some(self.whole.given_fold)

    @property
    def provenance(self) -> Provenance:
        """That of the whole, and which rows were taken of it."""
        of = self.whole.provenance
        taken = Source("rows taken", array_hash(self.rows), len(self.rows))
        return replace(of, sources=(*of.sources, taken), notes=(self.why, *of.notes))

    def gather(self, rows: Tensor) -> Batch:
        return self.whole.gather(torch.as_tensor(self.rows)[rows])

    def targets_of(self, rows: Tensor) -> Batch:
        """As :meth:`gather`, without modalities."""
        return targets_of(self.whole, self.rows[rows.numpy()])

    def _some(self, column: np.ndarray | None) -> np.ndarray | None:
        return None if column is None else column[self.rows]


def sampled(dataset: Dataset, rows: int, seed: int) -> Subset:
    """About ``rows`` rows of a data set, chosen by chance: every label keeps its share (iterative stratification), and
    groups, or else recordings, are taken whole or not at all.

    Raises:
        DataError: there are not more rows than that.

    >>> from fusion_lab.data import synthetic
    >>> whole = synthetic.load(synthetic.SyntheticConfig(rows=40))
    >>> len(sampled(whole, 10, seed=0)), sampled(whole, 10, seed=0).provenance.notes[0]
    (10, 'a subsample: 10 of 40 rows, chosen by chance (seed 0)')
    """
    count = len(dataset)
    if rows >= count:
        raise DataError(f"budget.rows: expected a number below that of all rows, {count}, found {rows}")
    keys = dataset.group if dataset.group is not None else dataset.recording
    items = items_of(dataset, dataset.ids if keys is None else keys)
    share = rows / count
    part = deal(items.labels, items.sizes, [share, 1 - share], np.random.default_rng([seed, 2]))
    taken = np.flatnonzero((part == 0)[items.of_row])
    what = "" if keys is None else f" of {int((part == 0).sum())} whole groups or recordings"
    return Subset(dataset, taken, f"a subsample: {len(taken)} of {count} rows{what}, chosen by chance (seed {seed})")
