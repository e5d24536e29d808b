"""The reference is the product's model: at the same weights the same outputs and gradients, in float64."""

import pytest
import torch
from ours import make_plan
from prepare import reference_weights
from reference import WIDTHS, RelapseTransformer
from settings import PARAMETERS, Settings
from torch import Tensor

from fusion_lab.contracts import Batch
from fusion_lab.zoo import Model

ROWS = 12


def models(width: int) -> tuple[Model, RelapseTransformer]:
    """Ours and the reference at the same weights, none of them at a place where initialisation put a zero or one."""
    settings = Settings(d_model=width, rows=60, folds=3, dropout=0.0, double=True)
    ours = make_plan(settings, "loop").initial_weights(0)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter, real in zip(ours.parameters(), ours.real_parameters().values(), strict=True):
            parameter += 0.1 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64) * real
    reference = RelapseTransformer(width, settings.nhead, 0.0).double()
    reference.load_state_dict(reference_weights(dict(ours.named_parameters())))
    return ours, reference


def batch_of(masks: dict[str, Tensor]) -> Batch:
    noise = torch.Generator().manual_seed(2)
    inputs, observed = {}, {}
    for name, width in WIDTHS.items():
        x = torch.randn(ROWS, 7, width, generator=noise, dtype=torch.float64)
        inputs[name] = torch.where(masks[name].unsqueeze(-1), x, 0.0)
        observed[name] = torch.ones_like(x, dtype=torch.bool)
    ones = torch.ones(ROWS, dtype=torch.float64)
    return Batch(inputs, masks, observed, dict.fromkeys(WIDTHS, ones), {}, {}, ones)


def side_by_side(batch: Batch) -> tuple[Tensor, Tensor]:
    """The batch as the reference takes it."""
    features = torch.cat([batch.inputs[name] for name in WIDTHS], dim=-1)
    return features, torch.stack([batch.valid[name] for name in WIDTHS], dim=-1)


def masks(pattern: str) -> dict[str, Tensor]:
    noise = torch.Generator().manual_seed(3)
    full = {name: torch.ones(ROWS, 7, dtype=torch.bool) for name in WIDTHS}
    if pattern == "steps":
        return {name: torch.rand(ROWS, 7, generator=noise) < 0.6 for name in full}
    if pattern == "modalities":
        return {name: mask & (torch.rand(ROWS, 1, generator=noise) < 0.6) for name, mask in full.items()}
    if pattern == "a row":
        return {name: mask & (torch.arange(ROWS) != 4).unsqueeze(1) for name, mask in full.items()}
    return full


@pytest.mark.parametrize("pattern", ["nothing", "steps", "modalities", "a row"])
@pytest.mark.parametrize("width", PARAMETERS)
def test_outputs_and_gradients_are_those_of_the_reference(width, pattern):
    """Whatever is missing; and so the query folded into the keys and the last layer computed for what is read alone
    are exact.
    """
    ours, reference = models(width)
    batch = batch_of(masks(pattern))
    answers = ours(batch).heads["outcome"], reference(*side_by_side(batch))
    torch.testing.assert_close(*answers, rtol=0, atol=1e-9)
    for answer in answers:
        torch.nn.functional.softplus(answer).sum().backward()
    expected = {name: parameter.grad for name, parameter in reference.named_parameters()}
    found = reference_weights({name: parameter.grad for name, parameter in ours.named_parameters()})
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-9, msg=lambda told, n=name: f"{n}: {told}")
    assert all(gradient.abs().max() > 1e-6 for gradient in found.values())


@pytest.mark.parametrize("width", PARAMETERS)
def test_the_reference_in_evaluation_answers_as_in_training(width):
    """PyTorch takes another way through its encoder layers there."""
    _, reference = models(width)
    batch = batch_of({**masks("steps"), "hr": torch.zeros(ROWS, 7, dtype=torch.bool)})
    trained = reference.train()(*side_by_side(batch))
    with torch.no_grad():
        torch.testing.assert_close(reference.eval()(*side_by_side(batch)), trained, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("width", "published"), PARAMETERS.items())
def test_the_reference_has_the_published_parameters(width, published):
    model = RelapseTransformer(width, width // 16, 0.1)
    assert sum(parameter.numel() for parameter in model.parameters()) == published
