"""Prompts of text files, of COCO's captions and of MJHQ's list, and drawn as PCR draws them."""

import json
import random

import pytest

from quantlab.errors import RequestError
from quantlab.models.pipelines.prompts import DEFAULT, read_prompts

LINES = ["a cat", "", "  two dogs on a lawn ", *(f"prompt {number}" for number in range(40))]


@pytest.fixture
def written(tmp_path):
    """written(name, content) -> path of that file; content: text, bytes, or what becomes JSON."""

    def write(name, content):
        path = tmp_path / name
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def coco(*captions):
    annotations = [{"image_id": number, "id": number, "caption": text} for number, text in enumerate(captions)]
    return {"info": {}, "images": [], "licenses": [], "annotations": annotations}


def test_a_text_file_coco_s_captions_and_mjhq_s_list(written):
    assert read_prompts(written("p.txt", "\n".join(LINES) + "\n"), None, 0) == [
        line.strip() for line in LINES if line.strip()
    ]
    captions = ["A black Honda motorcycle.", "A toilet \n", "Two\nlines"]
    assert read_prompts(written("captions_val2017.json", coco(*captions)), None, 0) == [
        "A black Honda motorcycle.",
        "A toilet",
        "Two",
        "lines",
    ]
    listed = {"b1": {"category": "art", "prompt": "an owl"}, "a2": {"category": "food", "prompt": "soup"}}
    assert read_prompts(written("meta_data.json", listed), None, 0) == ["an owl", "soup"]
    assert read_prompts(None, None, 0) == list(DEFAULT)


def test_some_of_them_are_drawn_as_pcr_draws_them(written):
    random.seed(999)
    drawn = random.sample(LINES, 20)
    text, captions = written("p.txt", "\n".join(LINES)), written("c.json", coco(*LINES))
    assert read_prompts(text, 20, 999) == [line.strip() for line in drawn if line.strip()]
    assert read_prompts(captions, 20, 999) == read_prompts(text, 20, 999) != read_prompts(text, 20, 998)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", " \n\n", "empty.txt holds no prompt, allowed: a text file, one prompt a line, or a .json file"),
        ("odd.txt", b"\xff\xfe", "(it is no text in UTF-8)"),
        ("torn.json", '{"annotations": [{"capt', "cannot be read (Unterminated string"),
        (
            "boxes.json",
            {"images": [], "annotations": [{"id": 1, "bbox": [0, 0, 1, 1]}]},
            "(the keys images, annotations)",
        ),
        ("none.json", coco(), "is JSON without captions of these forms"),
        ("list.json", ["a cat"], "is JSON without captions of these forms (no object)"),
        ("other.json", {"a cat": {"category": "art"}}, "the keys a cat"),
        ("number.json", {"a": {"prompt": 3}}, "the keys a"),
        ("blank.json", coco("", " "), "holds no prompt"),
    ],
)
def test_what_holds_no_prompts_is_said_in_one_line(name, content, said, written):
    with pytest.raises(RequestError) as caught:
        read_prompts(written(name, content), None, 0)
    (line,) = caught.value.problems
    assert said in line and "\n" not in line and "type model.prompts.file=null" in line, line


def test_more_than_there_are_and_files_that_never_end_are_refused(written, tmp_path):
    with pytest.raises(RequestError, match=r"model.prompts.count: got 9, allowed: 1 to 2, .* type .*count=2"):
        read_prompts(written("p.txt", "a\nb"), 9, 0)
    with pytest.raises(RequestError, match="is not a regular file"):
        read_prompts("/dev/zero", None, 0)
    with pytest.raises(RequestError, match="cannot be read"):
        read_prompts(str(tmp_path), None, 0)
