import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.blocks.members import disagreement
from fusion_lab.contracts import Task
from fusion_lab.objectives.losses import LOSSES, ObjectiveConfig

ROWS = 6
GLOWS = Task("glows", "binary", ("no", "yes"))
SHADE = Task("shade", "multiclass", ("red", "green", "blue"))
YIELD = Task("yield", "regression")
PLAIN = {GLOWS: "bce", SHADE: "cross_entropy", YIELD: "mse"}
TARGETS = {
    GLOWS: torch.tensor([0, 1] * 3, dtype=torch.float64),
    SHADE: torch.tensor([0, 1, 2] * 2),
    YIELD: torch.linspace(-2, 2, ROWS, dtype=torch.float64),
}


def some_answers(task: Task, members: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(members, ROWS, task.outputs, generator=generator, dtype=torch.float64)


def loss(task: Task, answer: torch.Tensor, smoothing: float) -> torch.Tensor:
    head = answer if task.kind == "multiclass" else answer.squeeze(-1)
    weights = torch.ones(3, dtype=torch.float64)
    return LOSSES[PLAIN[task]](head, TARGETS[task], weights, ObjectiveConfig(label_smoothing=smoothing))


@given(
    task=st.sampled_from(list(PLAIN)), members=st.integers(1, 5), seed=st.integers(0, 99), e=st.sampled_from([0, 0.2])
)
@settings(max_examples=30, deadline=None)
def test_with_the_loss_of_the_mean_answer_it_is_the_mean_loss_of_the_members(task, members, seed, e):
    answers = some_answers(task, members, seed)
    alone = torch.stack([loss(task, answer, e) for answer in answers]).mean(0)
    torch.testing.assert_close(loss(task, answers.mean(0), e) + disagreement(task, answers), alone)


@pytest.mark.parametrize("task", PLAIN, ids=lambda task: task.kind)
def test_members_that_agree_have_none_and_others_some(task):
    alike = some_answers(task, 1).expand(3, -1, -1)
    torch.testing.assert_close(disagreement(task, alike), torch.zeros(ROWS, dtype=torch.float64))
    assert (disagreement(task, some_answers(task, 3)) > 0).all()
