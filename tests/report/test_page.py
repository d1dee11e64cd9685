"""The page of one run, and the table printed at its end."""

import json
import re
import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser

from quantlab.config.methods.supernet import Supernet
from quantlab.report.figures import training_curves
from quantlab.report.page import final_table, write_page
from quantlab.report.protocol import protocol_words

BASELINE = {"full_precision": {"fid": 1.5}, "ranges_only": {"fid": 9.25, "fid_to_fp32": 8.0}}


def table_lines(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def test_page_shows_baselines_and_method_in_one_table(make_run):
    directory = make_run(metrics={"fid": 3.0, "fid_to_fp32": 2.0}, baseline=BASELINE)
    text = write_page(directory).read_text()
    assert text.startswith("# accuquant W4A8: ddim on digits_generation\n")
    assert table_lines(text) == [
        "|  | fid_to_fp32 ↓ | fid ↓ |",
        "|---|---:|---:|",
        "| full precision | – | 1.500 |",
        "| ranges only | 8.000 | 9.250 |",
        "| **accuquant** | **2.000** | **3.000** |",
    ]
    assert "1024 samples; FID on the features of task_classifier" in text
    assert "93.12 s, 400 optimizer steps, peak memory 700 MiB" in text
    assert "weights 4 bits, activations 8 bits" in text


def test_links_are_relative_and_resolve(make_run):
    directory = make_run("odd name", metrics={"loss": 0.25})
    training_curves([{"step": 1, "loss": 0.5}], directory / "figures" / "training.png")
    training_curves([{"step": 1, "loss": 0.5}], directory / "samples" / "my picture.png")
    text = write_page(directory).read_text()
    links = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    assert links == ["figures/training.png", "samples/my%20picture.png"]
    assert all((directory / link.replace("%20", " ")).is_file() for link in links)
    assert "My picture." in text


def test_a_supernets_page_says_how_to_train_what_it_found(make_run):
    directory = make_run(method="supernet", metrics={"kendall_tau": 0.7}, model={"pretrain": {"steps": 7}})
    results = json.loads((directory / "results.json").read_text()) | {"diagnostics": {"found": "3-3-3-1-2-3"}}
    text = write_page(directory, results).read_text()
    command = text.split("Train the subnet found, alone:\n\n```\n")[1].split("\n")[0]
    assert shlex.split(command) == [
        "quantlab",
        "method=pretrain",
        "task=digits_generation",
        "model=ddim",
        "model.subnet=3-3-3-1-2-3",
        "model.pretrain.steps=7",
    ]


def test_the_command_repeats_what_was_typed_but_not_its_directory(make_run):
    typed = ["method=accuquant", "quantizer.weight.bits=3", "data_dir='my data'", "output_dir=here"]
    text = write_page(make_run(metrics={"fid": 1.0}, typed=typed)).read_text()
    command = text.split("Repeat it:\n\n```\n")[1].split("\n")[0]
    assert shlex.split(command) == ["quantlab", *typed[:3]]


def test_the_command_to_sample_is_read_back_by_hydra(make_run):
    directory = make_run("sweep/a=1,b='x y'", metrics={"fid": 1.0})
    command = write_page(directory).read_text().split("Sample from it:\n\n```\n")[1].split("\n")[0]
    words = shlex.split(command)
    assert words[:2] == ["quantlab", "method=sample"]
    (override,) = OverridesParser.create().parse_overrides(words[2:])
    assert (override.key_or_group, override.value()) == ("method.run", str(directory.resolve()))


def test_the_tables_say_how_much_is_quantized(make_run):
    directory = make_run(metrics={"fid": 3.0})
    results = json.loads((directory / "results.json").read_text())
    results |= {
        "quantized": {"weights": 0.982, "multiplications": 0.9751, "other_bits": {"W8A8": ["conv_in", "conv_out"]}}
    }
    (directory / "layers.json").write_text(
        json.dumps(
            {
                "time": {
                    "kind": "Linear",
                    "weight": 32,
                    "input": 32,
                    "gradient": 32,
                    "parameters": 1.0,
                    "multiplications": 1.0,
                    "reason": "policy",
                }
            }
        )
    )
    said = "W4A8: 98.2 % of weights, 97.5 % of multiplications (conv_in, conv_out in W8A8)"
    text = write_page(directory, results).read_text()
    assert table_lines(text)[0] == f"| {said} | fid ↓ |"
    assert "## In full precision" in text and "Linear: `time` | 100 % | 100 % |" in text
    assert final_table(results).splitlines()[0] == f"{said}, ddim on digits_generation, seed 0"


def test_an_unfinished_run_says_why_and_how_to_go_on(make_run):
    directory = make_run(state="interrupted", error="interrupted by signal 2")
    text = write_page(directory).read_text()
    assert "- state: interrupted" in text and "- error: interrupted by signal 2" in text
    assert f"quantlab resume={directory.resolve()}" in text
    assert "method=sample" not in text


def test_pretraining_and_classification_have_their_own_columns(make_run):
    nothing = {"weight": 32, "activation": 32, "gradient": 32}
    pretrained = make_run("p", method="pretrain", metrics={"loss": 0.03125}, protocol={}, bits=nothing)
    text = write_page(pretrained).read_text()
    assert "| loss ↓ |" in text and "**0.03125**" in text and "FP32 (nothing quantized)" in text
    assert "Measured with" not in text and "method=sample" not in text
    classified = make_run("q", method="qat", metrics={"top1": 91.25, "loss": 0.3}, protocol={"samples": 10000})
    assert "| top1 (%) ↑ | loss ↓ |" in write_page(classified).read_text()


def test_final_table_is_aligned(make_run):
    directory = make_run(metrics={"fid": 3.0, "fid_to_fp32": 2.0}, baseline=BASELINE)
    text = final_table(json.loads((directory / "results.json").read_text()), label="accuquant")
    lines = text.splitlines()
    assert lines[0] == "W4A8, ddim on digits_generation, seed 0"
    assert [line.split() for line in lines[2:3]] == [["fid_to_fp32", "↓", "fid", "↓"]]
    assert lines[4:7] == [
        "full precision              –  1.500",
        "ranges only             8.000  9.250",
        "accuquant               2.000  3.000",
    ]
    assert lines[-2] == "1024 samples; FID on the features of task_classifier"


def test_protocols_are_put_into_words():
    assert protocol_words({}) == ""
    assert protocol_words({"samples": 64, "ssim": {"sigma": 0.5}}) == "64 samples; ssim sigma 0.5"


def test_the_pictures_of_a_supernet_have_their_captions(make_run):
    directory = make_run(method="supernet", metrics={"kendall_tau": 0.75})
    (directory / "figures").mkdir(exist_ok=True)
    for name in ("ranking", "fairness", "noise", "found_subnet"):
        (directory / "figures" / f"{name}.png").touch()
    text = write_page(directory).read_text()
    for name in ("ranking", "fairness", "noise", "found_subnet"):
        assert f"![{name}](figures/{name}.png)\n\n{Supernet.captions[name]}" in text
