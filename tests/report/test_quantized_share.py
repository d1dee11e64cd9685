"""How much is quantized, in words, and what is not."""

import pytest

from quantlab.report.layers import full_precision_section, quantized_share, quantized_words

BITS = {"weight": 4, "activation": 4, "gradient": 32}


def entry(weight, input_, parameters, multiplications, kind="Conv2d", **more):
    return {
        "kind": kind,
        "weight": weight,
        "input": input_,
        "gradient": 32,
        "parameters": parameters,
        "multiplications": multiplications,
    } | more


LAYERS = {
    "conv_in": entry(8, 8, 0.01, 0.02),
    **{f"body.{i}": entry(4, 4, 0.15, 0.15) for i in range(6)},
    "half": entry(4, 32, 0.03, 0.04, reason="policy"),
    "attention (softmax value)": entry(None, 8, 0, 0.01, kind="attention product"),
    "attention (query key)": entry(None, 32, 0, 0.01, kind="attention product", reason="policy"),
    **{f"norm.{i}": entry(32, 32, 0.01, 0, kind="GroupNorm", reason="kind") for i in range(4)},
    "head": entry(32, 32, 0.0199, 0.02, reason="last"),
    "(biases of layers)": entry(32, 32, 0.0001, 0, kind="biases", reason="kind"),
}


def test_shares_count_weights_and_multiplications_of_two_quantized_factors():
    share = quantized_share(LAYERS, BITS)
    assert share == {
        "weights": pytest.approx(0.01 + 6 * 0.15 + 0.03),
        "multiplications": pytest.approx(0.02 + 6 * 0.15 + 0.01),
        "other_bits": {"W8A8": ["conv_in"], "A8": ["attention (softmax value)"]},
    }
    assert (
        quantized_words(share)
        == "94.0 % of weights, 93.0 % of multiplications (conv_in in W8A8; attention (softmax value) in A8)"
    )


@pytest.mark.parametrize(
    "part, said", [(1.0, "100 %"), (0.9999, "> 99.9 %"), (0.5, "50.0 %"), (0.0001, "< 0.1 %"), (0.0, "0 %")]
)
def test_nearly_all_is_not_all(part, said):
    assert (
        quantized_words({"weights": part, "multiplications": part}) == f"{said} of weights, {said} of multiplications"
    )


def test_a_run_that_says_nothing_gets_no_words():
    assert quantized_words(None) == "" and full_precision_section({}) == ""


def test_what_stays_is_grouped_by_reason_and_kind():
    lines = full_precision_section(LAYERS).splitlines()
    assert [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in lines[6:]] == [
        ["input of Conv2d: `half`", "3.0 %", "4.0 %"],
        ["attention product: `attention (query key)`", "0 %", "1.0 %"],
        ["Conv2d: `head`", "2.0 %", "2.0 %"],
        ["GroupNorm: `norm.0`, `norm.1` and 2 more", "4.0 %", "0 %"],
        ["biases", "< 0.1 %", "0 %"],
    ]
