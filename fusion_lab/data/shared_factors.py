"""A few factors that all modalities show, each some of them well: a missing one can partly be told from the others."""

from __future__ import annotations

import numpy as np

Array = np.ndarray

DIRECTION = np.array([1.0, 1.0, 1.0, -1.0]) / 2
"""What a task's score weighs the factors with: unit length, and at right angles to itself rolled by any number of
places, so that up to four tasks ask for directions that have nothing to do with each other."""
FACTORS = len(DIRECTION)
SEEN_WELL = 2
"""Of the factors, how many a modality shows loudly; the next modality begins one factor further."""
FAINT = 0.1
"""How loud a modality shows the other factors, relative to those."""
PRIVATE = 2
"""Factors of a modality's own, as loud as those that it shows well: no other modality and no label tells of them."""
BEND = 0.2
"""Weight of a column's curved part, relative to its straight one: no linear map tells a modality wholly from others."""
POOREST = 0.1
"""The lowest quality."""


def draw_quality(rows: int, poor: float, rng: np.random.Generator) -> Array:
    """float [R]: 1, or for a share ``poor`` of the rows anything from :data:`POOREST` to 1."""
    return np.where(rng.random(rows) < poor, rng.uniform(POOREST, 1, rows), 1.0)


def blurred(factors: Array, quality: Array, rng: np.random.Generator) -> Array:
    """The factors [R,P] as a modality of ``quality`` [R] sees them: the correlation with the row's own is the quality.

    They are distributed as the row's own are, so that nothing but the quality tells how far they can be trusted.
    """
    own = quality[:, None]
    return own * factors + np.sqrt(1 - own**2) * rng.standard_normal(factors.shape)


def columns(seen: Array, place: int, width: int, loudness: float, rng: np.random.Generator) -> Array:
    """What a modality shows of the factors ``seen`` [R,P] and of its own, without noise: [R,width].

    ``place`` is the modality's among the useful ones; ``loudness`` the length of the direction, over the columns, of a
    factor that is seen well.
    """
    own = rng.standard_normal((len(seen), PRIVATE))
    clear = (np.arange(FACTORS) - place) % FACTORS < SEEN_WELL
    loud = np.concatenate([np.where(clear, 1.0, FAINT), np.ones(PRIVATE)]) * loudness
    turn = rng.standard_normal((len(loud), width))
    turn *= loud[:, None] / np.linalg.norm(turn, axis=1, keepdims=True)
    straight = np.concatenate([seen, own], axis=1) @ turn
    spread = np.linalg.norm(turn, axis=0)  # of each column, over the rows
    return straight + BEND * rng.choice([-1.0, 1.0], width) * (straight**2 / spread - spread)
