"""Text conditioning: prompts from a file, encoded once by the pipeline's own text encoders, which are then let go of.

Embeddings lie on disk, one row a prompt, under the hash of prompts and encoders; a walk only knows its prompt's number.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantlab.diffusion.conditioning import Condition, Conditioning, Guidance
from quantlab.errors import RequestError
from quantlab.run.parsing import MOST_JSON, read_bounded, read_json

# One for each walk until they are used up, where no file is given; ours, plain and of many kinds
DEFAULT = (
    "a photograph of a red bicycle leaning against a brick wall",
    "a bowl of fresh strawberries on a wooden table",
    "a lighthouse on a cliff at sunset, oil painting",
    "a black cat sleeping on a window sill",
    "a crowded street market in the rain",
    "a snowy mountain reflected in a calm lake",
    "a portrait of an old man with a white beard, studio light",
    "a steam train crossing a stone bridge",
    "two children flying a kite on a beach",
    "a glass of water with ice and a slice of lemon",
    "a watercolor of a village in spring",
    "an astronaut walking through a field of sunflowers",
    "a wooden desk with an open book and a cup of coffee",
    "a golden retriever running through shallow water",
    "the skyline of a large city at night",
    "a close-up of a bee on a lavender blossom",
    "a castle on a hill surrounded by fog",
    "a plate of pasta with tomatoes and basil",
    "a child's drawing of a house and a tree",
    "a sailing boat in a storm, dramatic light",
    "a modern kitchen with a large window",
    "a herd of elephants at a waterhole",
    "a vase of tulips in the style of a Dutch still life",
    "a motorcycle parked in a narrow alley",
    "a forest path covered with autumn leaves",
    "a woman playing the violin on a stage",
    "a robot watering plants in a greenhouse, digital art",
    "a soccer match in a small stadium",
    "an isometric drawing of a tiny bakery",
    "a hot air balloon above a desert",
    "a pair of worn leather boots on a doorstep",
    "a fox in fresh snow looking at the camera",
)
# (prompts, negative prompt) -> rows by name, float or int [len(prompts), ...], and those of the negative one, [1, ...]
Encode = Callable[[list[str], str], tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]


KEY = "model.prompts.file"
ALLOWED = (
    "allowed: a text file, one prompt a line, or a .json file with COCO's captions (captions_val2017.json) or the"
    f" prompts of MJHQ-30K (meta_data.json); type {KEY}=null for a list of ours"
)


def read_prompts(file: str | None, count: int | None, seed: int) -> list[str]:
    """The prompts of a file, in its order, or the list above; of all of its lines, empty ones among them, `count` drawn
    by Python's `Random(seed).sample`, as PCR draws its 5,000 captions. Raises RequestError in one line.
    """
    lines = list(DEFAULT) if file is None else _lines(Path(file).expanduser())
    if count is not None and count > len(lines):
        raise RequestError(
            f"model.prompts.count: got {count}, allowed: 1 to {len(lines)}, the prompts of {file or 'our list'}; type"
            f" model.prompts.count={len(lines)}"
        )
    chosen = lines if count is None else Random(seed).sample(lines, count)
    prompts = [line.strip() for line in chosen if line.strip()]
    if not prompts:
        raise RequestError(f"{KEY}: {file} holds no prompt, {ALLOWED}")
    return prompts


def _lines(file: Path) -> list[str]:
    try:
        if file.suffix.lower() != ".json":
            return read_bounded(file, MOST_JSON).decode("utf-8").splitlines()
        content = read_json(file)
    except (OSError, ValueError) as error:  # ParseError among them
        reason = getattr(error, "strerror", None) or (
            "it is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else error
        )
        raise RequestError(f"{KEY}: {file} cannot be read ({reason}), {ALLOWED}") from error
    captions = _captions(content)
    if captions is None:
        held = f"the keys {', '.join([*content][:4])}" if isinstance(content, dict) and content else "no object"
        raise RequestError(f"{KEY}: {file} is JSON without captions of these forms ({held}), {ALLOWED}")
    return "\n".join(captions).split("\n")  # a caption with a line break is two lines, as in a text file of captions


def _captions(content: Any) -> list[str] | None:
    """Those of {"annotations": [{"caption": ...}, ...]} or of {name: {"prompt": ..., "category": ...}, ...}, else
    None.
    """
    if not isinstance(content, dict):
        return None
    if "annotations" in content:
        entries, key = content["annotations"], "caption"
    else:
        entries, key = [*content.values()], "prompt"
    if not (isinstance(entries, list) and entries and all(isinstance(entry, dict) for entry in entries)):
        return None
    found = [entry.get(key) for entry in entries]
    return found if all(isinstance(text, str) for text in found) else None


class Prompts(Conditioning):
    """prompts: of walks, drawn without repetition until all are used; negative: what guidance leads away from; encode:
    the pipeline's text encoders; encoders: what tells them from others, as plain data; arguments: what the network is
    called with, made of the rows of embeddings by name.
    """

    def __init__(
        self,
        prompts: list[str],
        negative: str,
        guidance: Guidance,
        encode: Callable[[torch.device | str], Encode],
        encoders: Any,
        arguments: Callable[[Mapping[str, Tensor]], Mapping[str, Any]],
    ):
        self.prompts, self.negative, self.guidance = prompts, negative, guidance
        self._encode, self._encoders, self._arguments = encode, encoders, arguments
        self.embeddings: dict[str, Tensor] = {}  # [len(prompts) + 1, ...]: the negative one is last

    def draw(self, count: int, seed: int) -> Condition:
        generator = torch.Generator().manual_seed(seed)
        rounds = -(-count // len(self.prompts))
        numbers = torch.cat([torch.randperm(len(self.prompts), generator=generator) for _ in range(rounds)])
        return {"prompt": numbers[:count]}

    def null(self) -> Condition:
        return {"prompt": torch.tensor([len(self.prompts)])}

    def arguments(self, condition: Condition) -> Mapping[str, Any]:
        numbers = condition["prompt"]
        rows = numbers.cpu()
        return self._arguments({name: table[rows].to(numbers.device) for name, table in self.embeddings.items()})

    def prepare(self, cache: Any, device: torch.device | str) -> None:
        if not self.embeddings:
            folder = cache.fetch_files("prompts", self._facts(), lambda path: self._write(path, device))
            self.embeddings = {
                path.stem: torch.from_numpy(np.load(path, mmap_mode="c")) for path in sorted(folder.glob("*.npy"))
            }

    def facts(self) -> dict[str, Any]:
        guidance = {"scale": self.guidance.scale, "batched": self.guidance.batched, "channels": self.guidance.channels}
        return self._facts() | {"guidance": guidance}

    def _facts(self) -> dict[str, Any]:
        return {"format": 1, "prompts": self.prompts, "negative": self.negative, "encoders": self._encoders}

    @torch.no_grad()
    def _write(self, folder: Path, device: torch.device | str) -> None:
        rows, null = self._encode(device)(self.prompts, self.negative)
        for name, values in rows.items():
            table = torch.cat([values.cpu(), null[name].cpu()])
            np.save(folder / f"{name}.npy", (table.float() if table.is_floating_point() else table).numpy())
