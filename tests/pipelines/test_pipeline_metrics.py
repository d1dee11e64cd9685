"""Metrics of a pipeline with text, by name: LPIPS, the CLIP score, and FID on CLIP's features."""

import json

import pytest
import torch
from run_files import results

from quantlab.metrics.lpips import weights_url

pytest.importorskip("transformers")


@pytest.mark.slow
def test_a_pipeline_with_captions_is_measured_as_papers_do(pipelines, quantlab, tmp_path, monkeypatch):
    import torchvision
    from tiny_pipelines import save_clip

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / weights_url("squeeze").rpartition("/")[2]
    place.parent.mkdir(parents=True)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), place)
    captions = [{"image_id": number, "caption": f"{number} cats on a sofa"} for number in range(9)]
    (tmp_path / "captions.json").write_text(json.dumps({"annotations": captions}))
    code, _, err = quantlab(
        "method=ptq",
        "method.reconstruction=none",
        "model=pipeline",
        f"model.path={pipelines('sd')}",
        "model.image_size=32",
        "model.sampler.steps=2",
        f"model.prompts.file={tmp_path / 'captions.json'}",
        "model.prompts.count=4",
        "task.evaluation.samples=5",
        "task.evaluation.batch_size=2",
        "task.evaluation.step_error_samples=2",
        "task.evaluation.features=clip",
        f"task.evaluation.clip={save_clip(tmp_path / 'vit-tiny')}",
        "task.evaluation.metrics=[lpips,clip_score,inception_score]",
        "task.evaluation.lpips_network=squeeze",
        "method.calibration.trajectories=2",
        "method.calibration.range_samples=2",
        "method.group_size=1",
        "method.batch_size=2",
        "quantizer.weight.scale_search=min_max",
        "quantizer.activation.scale_search=min_max",
        "device=cpu",
        f"output_dir={tmp_path / 'run'}",
    )
    assert code == 0, err
    found = results(tmp_path / "run")
    metrics, protocol = found["metrics"], found["protocol"]
    assert set(metrics) == {"fid_to_fp32", "psnr", "ssim", "mse_to_fp32", "mse_to_fp32_median", "lpips", "clip_score"}
    assert metrics["lpips"] > 0 and metrics["fid_to_fp32"] > 0
    assert set(found["baseline"]["full_precision"]) == {"clip_score"}
    assert (protocol["fid_features"], protocol["lpips"]) == ("vit-tiny", "squeeze")
    assert protocol["clip_score"] == "100 cos, vit-tiny"
    (note,) = found["notes"]
    assert note.startswith("inception_score: not measured: weights absent at ")
