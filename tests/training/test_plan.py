"""Where a plan trains."""

from __future__ import annotations

import pytest
import torch
from small_plans import make_plan

from fusion_lab.contracts import ConfigError
from fusion_lab.training import TrainingConfig, cross_validate


@pytest.mark.parametrize("there", [True, False])
def test_auto_is_cuda_where_there_is_one(monkeypatch, there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert TrainingConfig().pick_device().type == ("cuda" if there else "cpu")
    assert TrainingConfig(device="cpu").pick_device().type == "cpu"


def test_cuda_where_there_is_none_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    expected = "^training.device: expected auto or cpu where PyTorch sees no CUDA device, found 'cuda'$"
    with pytest.raises(ConfigError, match=expected):
        TrainingConfig(device="cuda").pick_device()
    with pytest.raises(ConfigError, match=expected):
        cross_validate(make_plan({"training.device": "cuda"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert TrainingConfig(device="cuda").pick_device() == torch.device("cuda")
