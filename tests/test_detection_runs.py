"""Whole runs of detectors from the command line: what they leave, the same bits after a stop, folders with loading
processes.
"""

import json

import numpy as np
import pytest
from kills import interrupted_at
from PIL import Image
from run_files import results

from quantlab.methods.qat import QAT
from quantlab.run.state import load_model

SCENES = (
    "task=detection",
    "task.scenes={train: 24, validation: 2, test: 4}",
    "task.evaluation.drawn_images=2",
    "device=cpu",
    "trainer.log_every=1",
    "trainer.checkpoint_every=2",
    "model.pretrain.steps=3",
    "model.pretrain.batch_size=6",
)
TINY_QAT = (*SCENES, "experiment=qat/detection/faster_rcnn_w4a4", "method.batch_size=6", "trainer.max_steps=4")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    from quantlab.cli.main import main

    directory = tmp_path_factory.mktemp("detection") / "run"
    assert main([*TINY_QAT, f"output_dir={directory}", f"cache_dir={cache}"]) == 0
    return directory


def test_what_a_quantized_detector_leaves(whole):
    found = results(whole)
    assert found["bits"] == {"weight": 4, "activation": 4, "gradient": 32}
    assert set(found["metrics"]) == {"map", "map50", "map75"} == set(found["baseline"]["full_precision"])
    assert found["protocol"]["train_images"] == 24 and found["protocol"]["test_images"] == 4
    report = (whole / "report.md").read_text()
    assert "samples/detections.png" in report and "true boxes (dashed)" in report and "map50 (%)" in report
    assert np.asarray(Image.open(whole / "samples/detections.png").convert("L")).std() > 5  # not a blank sheet
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    validated = [row for row in rows if "validation_loss" in row]
    assert [row["step"] for row in validated] == [2, 4] and all("validation_map50" in row for row in validated)


def test_evaluating_a_quantized_detector_repeats_its_numbers(whole, quantlab, tmp_path):
    code, _, err = quantlab("method=evaluate", f"method.run={whole}", "device=cpu", f"output_dir={tmp_path / 'again'}")
    assert code == 0, err
    ran, found = results(whole), results(tmp_path / "again")
    assert found["metrics"] == ran["metrics"] and found["protocol"] == ran["protocol"]
    assert (tmp_path / "again/samples/detections.png").is_file()


def test_bits_of_a_quantized_detectors_layers(whole):
    tensors, facts = load_model(whole / "checkpoints" / "model")
    layers = {name.rpartition(".weight_quantizer")[0] for name in tensors if ".weight_quantizer." in name}
    # the first layer stays in full precision
    assert facts["bits"] == "W4A4" and "backbone.body.conv1.0" not in layers
    assert {
        "rpn.head.conv.0.0",
        "rpn.head.cls_logits",
        "roi_heads.box_head.fc6",
        "roi_heads.box_predictor.cls_score",
    } <= layers
    # every activation quantizer was calibrated: none has its blank scale of 1
    scales = {name: float(value) for name, value in tensors.items() if name.endswith("activation_quantizer.scale")}
    assert len(scales) == len(layers) and all(value > 0 and abs(value - 1) > 0.01 for value in scales.values()), scales


def test_a_detector_that_was_stopped_repeats_the_bits(whole, quantlab, tmp_path, monkeypatch):
    interrupted_at(3, QAT, monkeypatch)
    assert quantlab(*TINY_QAT, f"output_dir={tmp_path / 'run'}")[0] == 130
    assert quantlab(f"resume={tmp_path / 'run'}")[0] == 0
    assert results(tmp_path / "run")["metrics"] == results(whole)["metrics"]
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_pretrain_of_a_folder_in_cocos_format_mirrors_with_the_same_bits_in_other_processes(quantlab, tmp_path):
    generator = np.random.default_rng(0)
    for name, count in (("train2017", 12), ("val2017", 3)):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / "annotations").mkdir(exist_ok=True)
        content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "patch"}]}
        for index in range(count):
            width, height = 40 + index, 48
            pixels = generator.integers(0, 80, (height, width, 3)).astype(np.uint8)
            pixels[10:30, 5:25] += 150
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
            content["images"].append({"id": index, "file_name": f"{index}.png", "width": width, "height": height})
            content["annotations"].append({"id": index, "image_id": index, "category_id": 1, "bbox": [5, 10, 20, 20]})
        (tmp_path / "data" / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
    lines = []
    for workers in (0, 1):
        code, _, err = quantlab(
            "method=pretrain",
            "model=retinanet_small",
            *SCENES[3:],
            "task=coco",
            "task.validation_fraction=0.2",
            "task.evaluation.drawn_images=2",
            f"trainer.num_workers={workers}",
            f"data_dir={tmp_path / 'data'}",
            f"cache_dir={tmp_path / f'cache{workers}'}",
            f"output_dir={tmp_path / f'run{workers}'}",
        )
        assert code == 0, err
        lines.append((tmp_path / f"run{workers}" / "metrics.jsonl").read_bytes())
    assert lines[0] == lines[1]
    assert (
        results(tmp_path / "run0")["protocol"]["train_images"] == 10
        and (tmp_path / "run0/samples/detections.png").is_file()
    )
