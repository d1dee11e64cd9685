"""CLIP, DINOv2 and LPIPS of random weights, against the libraries' own words for them."""

import pytest
import torch

from quantlab.errors import RequestError
from quantlab.metrics.image_encoders import Clip, Dino
from quantlab.metrics.lpips import LPIPS_NETWORKS, Lpips, weights_url
from quantlab.metrics.weights import WeightsAbsent, model_folder

transformers = pytest.importorskip("transformers")
KEY = "task.evaluation.clip"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The directory of a tiny CLIP."""
    from tiny_pipelines import save_clip

    return save_clip(tmp_path_factory.mktemp("clip"))


@torch.no_grad()
def test_the_clip_score_is_a_hundred_cosines_of_images_and_texts(clip):
    images, texts = torch.rand(3, 3, 40, 40) * 2 - 1, ["a cat", "two dogs on a lawn", "long " * 60]
    ours = Clip(clip)
    found = ours.scores(images, texts)
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    words = transformers.AutoTokenizer.from_pretrained(clip)(
        texts, padding=True, truncation=True, max_length=77, return_tensors="pt"
    )
    output = model(words["input_ids"], ours.pixels(images), words["attention_mask"])
    expected = 100 * (output.image_embeds * output.text_embeds).sum(1)
    torch.testing.assert_close(found.float(), expected)
    assert found.dtype == torch.float64 and len(set(found.tolist())) == 3
    features = ours.features(images)
    assert features.shape == (3, ours.num_features) == (3, 8)
    torch.testing.assert_close(torch.nn.functional.normalize(features), output.image_embeds)


def test_dinov2_gives_the_class_tokens(tmp_path):
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    transformers.BitImageProcessor(size={"height": 28, "width": 28}, do_center_crop=False).save_pretrained(tmp_path)
    folder = model_folder("task.evaluation.dino", str(tmp_path), "dinov2", download=False)
    dino, images = Dino(folder), torch.rand(2, 1, 20, 20)
    with torch.no_grad():
        tokens = dino.network(pixel_values=dino.pixels(images)).last_hidden_state
        assert dino.pixels(images).shape == (2, 3, 28, 28)
        assert torch.equal(dino.features(images), tokens[:, 0]) and dino.num_features == 16


def test_what_is_absent_or_something_else_is_named(clip, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert model_folder(KEY, str(clip), "clip", False) == clip
    with pytest.raises(WeightsAbsent, match=f"^weights absent at {tmp_path}/hub/models--openai--clip-none$"):
        model_folder(KEY, "openai/clip-none", "clip", False)
    with pytest.raises(RequestError, match=f"{KEY}: .* holds a model of the type clip, allowed: dinov2"):
        model_folder(KEY, str(clip), "dinov2", False)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsAbsent, match=f"{tmp_path}/model.safetensors"):
        model_folder(KEY, str(tmp_path), "clip", False)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(RequestError, match="config.json is damaged"):
        model_folder(KEY, str(tmp_path), "clip", False)


def test_lpips_is_torchmetrics_own_and_says_where_its_weights_belong(tmp_path, monkeypatch):
    import torchvision
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / weights_url("squeeze").rpartition("/")[2]
    place.parent.mkdir(parents=True)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), place)
    lpips, least = Lpips("squeeze", place), LPIPS_NETWORKS["squeeze"][1]
    torch.manual_seed(0)
    first, second = torch.rand(2, 3, 3, least, least) * 2 - 1
    found = lpips(first, second)
    expected = learned_perceptual_image_patch_similarity(first, second, "squeeze", reduction="none")
    torch.testing.assert_close(found.float(), expected.detach())
    assert lpips(first[:, :1], first[:, :1] + 0).tolist() == [0, 0, 0] and found.min() > 0
    place.write_bytes(b"torn")
    with pytest.raises(RequestError, match="is damaged, or not the weights of SqueezeNet1_1"):
        Lpips("squeeze", place)
