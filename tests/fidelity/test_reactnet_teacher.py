"""ReActNet's distributional loss against its released code, forward and backward."""

import math

import pytest
import torch
from stored import normal, stored
from torch import nn
from torch.nn import functional as F

from quantlab.methods.teacher import Teacher


@pytest.mark.parametrize(
    "case", stored("reactnet_distributional_loss"), ids=lambda case: f"{case['shape']} times {case['scale']:g}"
)
def test_the_teachers_probabilities_as_labels_are_the_distributional_loss(case):
    student = (case["scale"] * normal(2 * case["seed"], *case["shape"])).requires_grad_()
    teacher = Teacher(nn.Identity()).probabilities(case["scale"] * normal(2 * case["seed"] + 1, *case["shape"]))
    loss = F.cross_entropy(student, teacher)  # what every classifier's training_loss computes
    loss.backward()
    assert math.isclose(loss.item(), case["loss"], rel_tol=1e-6)
    assert torch.allclose(student.grad, torch.tensor(case["gradient"]), rtol=1e-5, atol=1e-8)


def test_the_released_loss_is_the_papers_and_the_teachers_entropy():
    student, teacher = normal(0, 8, 10), Teacher(nn.Identity()).probabilities(normal(1, 8, 10))
    divergence = F.kl_div(student.log_softmax(1), teacher, reduction="batchmean")
    entropy = -(teacher * teacher.log()).sum(1).mean()
    assert torch.allclose(F.cross_entropy(student, teacher), divergence + entropy)
