"""The classifier whose features evaluate a task's images."""

from types import SimpleNamespace

import pytest
import torch

from quantlab.errors import RequestError
from quantlab.metrics.fid import FrechetDistance
from quantlab.models.task_classifier import TaskClassifier, build_task_classifier
from quantlab.tasks.generation import DigitsGeneration

SECTION = SimpleNamespace(width=8, features=16)


def digits():
    evaluation = SimpleNamespace(batch_size=256)
    return DigitsGeneration(SimpleNamespace(name="digits_generation", image_size=8, evaluation=evaluation))


@pytest.mark.parametrize("size", [8, 16, 28, 32, 64])
def test_every_image_size_gives_features_and_logits_of_one_image_alone(size):
    torch.manual_seed(0)
    network = TaskClassifier(channels=3, classes=5, width=8, features=16)
    images = torch.rand(4, 3, size, size) * 2 - 1
    assert network.features(images).shape == (4, network.num_features) and network(images).shape == (4, 5)
    torch.testing.assert_close(network.features(images[:1]), network.features(images)[:1])


@pytest.fixture
def one_thread():
    """Two threads on a busy machine wait for each other at every one of these tiny convolutions."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_few_steps_on_digits_already_tell_them_apart(one_thread):
    torch.manual_seed(0)
    task = digits()
    data = task.dataset()
    network = build_task_classifier(SECTION, task)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    held_out = data.__getitems__(range(1500, 1797))
    for start in range(0, 64 * 120, 64):
        loss = network.training_loss(data.__getitems__(torch.arange(start, start + 64) % 1500))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (network(held_out["image"]).argmax(1) == held_out["label"]).float().mean()
    assert accuracy > 0.85


def test_its_features_measure_distances_that_grow_with_the_damage():
    torch.manual_seed(0)
    task = digits()
    images = torch.cat(list(task.reference()))
    distance = FrechetDistance(build_task_classifier(SECTION, task)).reference(task.reference())
    slight, heavy = (distance.measure(images + noise * torch.randn_like(images)) for noise in (0.1, 0.5))
    assert distance.measure(images) < 1e-6 < slight < heavy


def test_a_task_without_labels_is_refused_with_the_alternative():
    task = SimpleNamespace(name="image_folder_generation", channels=3, classes=None)
    with pytest.raises(RequestError, match="one sub-folder per class"):
        build_task_classifier(SECTION, task)
