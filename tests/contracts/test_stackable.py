"""Every family keeps the rules of stacking, or the operation that breaks one is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contracts.test_families import CASES, ROWS, SPECS, build, in_the_way, marked, names, rows_of

from fusion_lab.data.planting import Planting, twin
from fusion_lab.objectives import Objective, ObjectiveConfig
from fusion_lab.training.rules import broken_rule

FOLDS = 3


@pytest.mark.parametrize(("family", "variant", "spec_name"), [marked(c, *c) for c in CASES])
def test_all_folds_of_a_family_can_be_trained_in_one_step_unless_it_says_what_is_in_the_way(family, variant, spec_name):
    spec = SPECS[spec_name]
    model = build(family, variant, spec).float()
    planting = Planting(rows=ROWS, missing_modalities=0.2, missing_cells=0.1, unknown_labels=0.1, planted="quality")
    rows = torch.stack([torch.from_numpy(np.random.default_rng(k).permutation(ROWS)[:8]) for k in range(FOLDS)])
    batch = rows_of(twin(spec, planting, useful=names(spec)).gather(torch.arange(ROWS)), rows)
    batch.weight[1, 5:] = 0
    weights = {task.name: torch.rand(FOLDS, max(2, task.outputs)) + 0.5 for task in spec.tasks}
    broken = broken_rule(model, Objective(ObjectiveConfig(binary="focal", label_smoothing=0.05), spec), batch, weights)
    expected = in_the_way(family, variant)
    if expected is None or not any(m.kind == "sequence" for m in spec.modalities):
        assert broken is None, f"{family} cannot be stacked: {broken}"
    else:
        assert broken is not None
        assert broken.startswith(f"{expected} in `encoders."), broken
