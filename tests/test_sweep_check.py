"""Errors that only torch, timm or the disk reveal are found in any job of a sweep before the first one runs."""

import pytest


@pytest.mark.parametrize(
    "words, lines",
    [
        (
            ["model=timm", "model.architecture=resnet10t,resnt18,squeezenet1_0"],
            [
                (
                    "did you mean 'resnet18'? Type model.architecture=resnet18 (job model.architecture=resnt18; 1 of 3"
                    " jobs)"
                ),
                (
                    "has no 'squeezenet1_0'; type model.architecture=resnet18, or another name of timm.list_models() "
                    "(job model.architecture=squeezenet1_0; 1 of 3 jobs)"
                ),
            ],
        ),
        (
            ["model=resnet20", "model.weights=null,nowhere.safetensors", "seed=0,1"],
            ["no such file: nowhere.safetensors (job model.weights=nowhere.safetensors seed=0; 2 of 4 jobs)"],
        ),
        (
            ["model=task_classifier", "task=digits,image_folder", "data_dir=nowhere"],
            ["(job task=image_folder; 1 of 2 jobs)"],
        ),
    ],
)
def test_no_job_runs_when_one_names_what_is_not_there(quantlab, tmp_path, monkeypatch, words, lines):
    monkeypatch.chdir(tmp_path)
    code, out, err = quantlab("-m", "method=pretrain", "task=digits", "device=cpu", "trainer.max_steps=1", *words)
    said = err.splitlines()
    assert (code, out, list(tmp_path.iterdir())) == (2, "", []) and len(said) == len(lines)
    assert all(line in got for line, got in zip(lines, said, strict=True))
