"""The baselines as they are, fitted in a tenth of the time."""

import pytest

from fusion_lab.zoo import baselines, linear


def quicken(patch: pytest.MonkeyPatch) -> None:
    """The same models with one penalty, one scaling and few trees."""
    patch.setattr(linear, "_STRENGTHS", (0.1,))
    patch.setattr(linear, "_EXPONENTS", (0.0,))
    patch.setitem(baselines._TREES, "max_iter", 5)
