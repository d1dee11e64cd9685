"""Metrics on Inception's features: worked out by hand, and the network against the library's own, of random weights."""

import pytest
import torch

from quantlab.errors import RequestError
from quantlab.metrics import inception
from quantlab.metrics.inception import Inception, inception_score, precision_recall, to_inception, weights_url
from quantlab.metrics.weights import WeightsAbsent, hub_file


def test_grey_images_become_the_rgb_bytes_that_inception_reads():
    levels = to_inception(torch.tensor([-1.5, -1.0, 0.0, 1.0]).reshape(1, 1, 2, 2))
    assert levels.shape == (1, 3, 2, 2) and levels.dtype == torch.uint8
    assert levels[0].flatten(1).tolist() == [[0, 0, 128, 255]] * 3


def test_absent_weights_are_named_and_not_fetched(monkeypatch, tmp_path):
    pytest.importorskip("torch_fidelity")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsAbsent, match=f"^weights absent at {tmp_path}/hub/checkpoints/weights-inception.*pth$"):
        hub_file(weights_url(), download=False)
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, path: (_ for _ in ()).throw(OSError("no net")))
    with pytest.raises(RequestError, match=r"cannot be fetched \(OSError: no net\); .*download=false"):
        hub_file(weights_url(), download=True)


def test_inception_score_of_sure_unsure_and_ordered_predictions():
    pytest.importorskip("torch_fidelity")
    sure = 50 * torch.eye(8).repeat(3, 1)  # each of 8 classes as often: exp(log 8)
    assert inception_score(sure) == pytest.approx(8)
    assert inception_score(torch.ones(20, 8)) == pytest.approx(1)
    halves = 50 * torch.eye(2).repeat_interleave(inception.SPLIT, 0)  # each split of 5,000 holds one class
    assert inception_score(halves) == pytest.approx(1)
    assert inception_score(halves[1::2]) == pytest.approx(2)  # one split of both


def test_precision_and_recall_by_the_definition():
    pytest.importorskip("torch_fidelity")
    line, cluster = torch.arange(10.0)[:, None], torch.tensor([4.4, 4.45, 4.5, 4.55])[:, None]
    assert precision_recall(cluster, line) == {"precision": 1.0, "recall": 0.0}
    assert precision_recall(line, cluster) == {"precision": 0.0, "recall": 1.0}
    torch.manual_seed(0)
    samples, references = torch.randn(40, 3), torch.randn(30, 3) * 1.5 + 0.3

    def covered(points, centres):
        """Share of points within the third neighbour of a centre."""
        reach = torch.cdist(centres, centres).sort().values[:, inception.NEIGHBOURS]
        return (torch.cdist(points, centres) <= reach).any(1).float().mean().item()

    found = precision_recall(samples, references)
    assert found["precision"] == pytest.approx(covered(samples, references)) and found["precision"] < 1
    assert found["recall"] == pytest.approx(covered(references, samples)) and found["recall"] < found["precision"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    file = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), file)
    return file


@torch.no_grad()
def test_the_networks_outputs_are_those_of_the_library_and_adm_s_spatial_ones(weights):
    from torchmetrics.image.fid import NoTrainInceptionV3

    network, images = Inception(weights), torch.rand(2, 3, 20, 20) * 2 - 1
    before = []
    network.network.Mixed_6c.register_forward_hook(lambda module, inputs, output: before.append(output))
    found = network.outputs(images)
    assert {name: tuple(one.shape) for name, one in found.items()} == {
        "pool": (2, 2048),
        "spatial": (2, 17 * 17 * 7),
        "logits": (2, 1008),
    }
    mixed_6 = network.network.Mixed_6d.branch1x1(before[0])  # its first branch is the first part of its output
    assert torch.equal(found["spatial"].reshape(2, 7, 17, 17), mixed_6[:, :7])
    own = NoTrainInceptionV3("inception-v3-compat", ["logits_unbiased"], str(weights), antialias=False)
    torch.testing.assert_close(found["logits"], own(to_inception(images)))
    assert torch.equal(network.features(images), found["pool"])


def test_a_damaged_file_is_said_in_one_line(tmp_path):
    pytest.importorskip("torch_fidelity")
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(RequestError, match=r"torn.pth is damaged, or not the weights of Inception .*remove it"):
        Inception(tmp_path / "torn.pth")
