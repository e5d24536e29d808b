"""Losses against PyTorch's own and against plain formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fusion_lab.objectives.losses import LOSSES, ObjectiveConfig

ROWS, CLASSES = 40, 4
BINARY = ("bce", "weighted_bce", "focal", "weighted_focal")
ONES = torch.ones(2, dtype=torch.float64)
logits = st.floats(-30, 30)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def binary() -> tuple[torch.Tensor, torch.Tensor]:
    return 3 * torch.randn(ROWS, dtype=torch.float64), (torch.rand(ROWS) < 0.4).double()


def multiclass() -> tuple[torch.Tensor, torch.Tensor]:
    return 3 * torch.randn(ROWS, CLASSES, dtype=torch.float64), torch.randint(CLASSES, (ROWS,)).double()


def test_there_is_a_loss_for_every_name_that_the_settings_know():
    named = {
        name
        for kind in ("binary", "multiclass", "regression")
        for name in ObjectiveConfig.model_json_schema()["properties"][kind]["enum"]
    }
    assert named == set(LOSSES)


def test_bce_is_torchs():
    x, y = binary()
    expected = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    torch.testing.assert_close(LOSSES["bce"](x, y, ONES, ObjectiveConfig()), expected)


@pytest.mark.parametrize("ratio", [0.2, 1.0, 9.0])
def test_weighted_bce_is_torchs_with_a_positive_weight(ratio):
    x, y = binary()
    weights = torch.tensor([1.0, ratio], dtype=torch.float64)
    expected = F.binary_cross_entropy_with_logits(x, y, reduction="none", pos_weight=weights[1])
    torch.testing.assert_close(LOSSES["weighted_bce"](x, y, weights, ObjectiveConfig()), expected)


@pytest.mark.parametrize("name", BINARY)
def test_label_smoothing_mixes_the_two_labels(name):
    x, y = binary()
    config, plain = (
        ObjectiveConfig(label_smoothing=0.2, focal_gamma=0.0, focal_alpha=0.5),
        ObjectiveConfig(focal_gamma=0.0, focal_alpha=0.5),
    )
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    own, other = (LOSSES[name](x, target, weights, plain) for target in (y, 1 - y))
    torch.testing.assert_close(LOSSES[name](x, y, weights, config), 0.9 * own + 0.1 * other)


@given(x=logits, positive=st.booleans(), alpha=st.floats(0.05, 0.95), gamma=st.floats(0, 5))
@settings(max_examples=60, deadline=None)
def test_focal_is_its_formula(x, positive, alpha, gamma):
    config = ObjectiveConfig(focal_alpha=alpha, focal_gamma=gamma)
    loss = LOSSES["focal"](
        torch.tensor([x], dtype=torch.float64), torch.tensor([float(positive)]).double(), ONES, config
    )
    z = x if positive else -x  # p_t = 1 / (1 + exp(-z))
    entropy = math.log1p(math.exp(-z))
    modulation = (1 / (1 + math.exp(z))) ** gamma
    assert loss.item() == pytest.approx((alpha if positive else 1 - alpha) * modulation * entropy, rel=1e-6, abs=1e-12)


@given(x=logits, positive=st.booleans(), ratio=st.floats(0.05, 200), gamma=st.floats(0, 5))
@settings(max_examples=60, deadline=None)
def test_weighted_focal_is_its_formula(x, positive, ratio, gamma):
    weights = torch.tensor([1.0, ratio], dtype=torch.float64)
    x, y = torch.tensor([x], dtype=torch.float64), torch.tensor([float(positive)]).double()
    loss = LOSSES["weighted_focal"](x, y, weights, ObjectiveConfig(focal_gamma=gamma))
    p = torch.sigmoid(x if positive else -x)
    expected = (1 - p) ** gamma * -torch.log(p) * (ratio if positive else 1)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-9)


def test_weighted_focal_of_a_gamma_of_0_is_weighted_bce():
    x, y = binary()
    weights, config = torch.tensor([1.0, 7.0], dtype=torch.float64), ObjectiveConfig(focal_gamma=0.0)
    expected = LOSSES["weighted_bce"](x, y, weights, config)
    torch.testing.assert_close(LOSSES["weighted_focal"](x, y, weights, config), expected)


def test_focal_without_modulation_is_half_the_bce():
    x, y = binary()
    config = ObjectiveConfig(focal_alpha=0.5, focal_gamma=0.0)
    torch.testing.assert_close(LOSSES["focal"](x, y, ONES, config), 0.5 * LOSSES["bce"](x, y, ONES, config))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(smoothing):
    x, y = multiclass()
    expected = F.cross_entropy(x, y.long(), reduction="none", label_smoothing=smoothing)
    ours = LOSSES["cross_entropy"](x, y, torch.ones(CLASSES), ObjectiveConfig(label_smoothing=smoothing))
    torch.testing.assert_close(ours, expected)


def test_weighted_cross_entropy_is_torchs_with_class_weights():
    x, y = multiclass()
    weights = torch.tensor([0.0, 0.5, 1.0, 4.0], dtype=torch.float64)
    expected = F.cross_entropy(x, y.long(), reduction="none", weight=weights)
    torch.testing.assert_close(LOSSES["weighted_cross_entropy"](x, y, weights, ObjectiveConfig()), expected)


def test_cross_entropy_takes_steps_before_classes():
    x, y = torch.randn(5, 3, CLASSES), torch.randint(CLASSES, (5, 3)).float()
    expected = F.cross_entropy(x.transpose(1, 2), y.long(), reduction="none")
    torch.testing.assert_close(LOSSES["cross_entropy"](x, y, torch.ones(CLASSES), ObjectiveConfig()), expected)


@pytest.mark.parametrize(("name", "reference"), [("mse", F.mse_loss), ("huber", F.huber_loss)])
def test_regression_losses_are_torchs(name, reference):
    x, y = 3 * torch.randn(ROWS), torch.randn(ROWS)
    torch.testing.assert_close(LOSSES[name](x, y, torch.ones(1), ObjectiveConfig()), reference(x, y, reduction="none"))


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("extreme", [-1e4, 1e4])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_binary_losses_and_gradients_are_finite_at_extreme_logits(name, extreme, gamma):
    for label in (0.0, 1.0):
        x = torch.tensor([extreme], requires_grad=True)
        loss = LOSSES[name](x, torch.tensor([label]), torch.ones(2), ObjectiveConfig(focal_gamma=gamma))
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert torch.isfinite(loss).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", BINARY)
def test_a_mixed_target_costs_the_mean_of_what_the_two_cost(name):
    x, y = binary()
    share = torch.rand(ROWS, dtype=torch.float64)
    config = ObjectiveConfig(label_smoothing=0.1, focal_gamma=2.0, focal_gamma_negatives=3.5)
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    own, other = (LOSSES[name](x, target, weights, config) for target in (y, 1 - y))
    mixed = LOSSES[name](x, share * y + (1 - share) * (1 - y), weights, config)
    torch.testing.assert_close(mixed, share * own + (1 - share) * other)


@pytest.mark.parametrize("name", ["focal", "weighted_focal"])
def test_positives_and_negatives_may_have_gammas_of_their_own(name):
    x, y = binary()
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    both = LOSSES[name](x, y, weights, ObjectiveConfig(focal_gamma=1.0, focal_gamma_negatives=4.0))
    one, four = (LOSSES[name](x, y, weights, ObjectiveConfig(focal_gamma=gamma)) for gamma in (1.0, 4.0))
    torch.testing.assert_close(both, torch.where(y > 0, one, four))
