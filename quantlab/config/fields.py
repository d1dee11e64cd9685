"""The kinds of value that keys hold. Each says what it allows in words, so that an error can repeat it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

LARGEST = 3e38  # of a number, nearly float32's


class Strict(BaseModel):
    """A mapping whose keys are all known, all present and never converted: the YAMLs are the only source of values."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


def files_in(folder: str, *others: str) -> tuple[str, ...]:
    """The names of the Python files in a folder of the package, where each but `others` is one choice of a key:
    `config` imports none of what it configures.
    """
    found = (path.stem for path in (Path(__file__).parents[1] / folder).glob("*.py"))
    return tuple(sorted(name for name in found if name not in ("__init__", *others)))


def refusal(allowed: str, example: Any) -> PydanticCustomError:
    """The error of a value that is not among the `allowed` ones; `example` is a value that is."""
    return PydanticCustomError("refusal", "{allowed}", {"allowed": allowed, "example": example})


def says(allowed: str, example: Any, nearest_of: tuple[int, ...] = ()) -> WrapValidator:
    """Whatever is wrong with the value, the error says all that is allowed, not only the bound that was hit.

    nearest_of: numbers of which the nearest to a wrong number is shown instead of `example`.
    """

    def validate(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
        try:
            return inner(value)
        except ValidationError as error:
            if error.errors()[0]["type"] == "refusal":
                raise
            is_number = nearest_of and isinstance(value, int | float)
            raise refusal(
                allowed, min(nearest_of, key=lambda one: abs(one - value)) if is_number else example
            ) from None

    return WrapValidator(validate)


def at_most(key: str, value: int, bound_key: str, bound: int) -> Iterator[str]:
    """The line of a count above its bound."""
    if value > bound:
        yield f"{key}: got {value}, allowed: 1 to {bound} ({bound_key}); type {key}={bound}"


def _or_null(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
    try:
        return inner(value)
    except ValidationError as error:
        context = error.errors()[0]["ctx"]
        raise refusal(f"{context['allowed']}, or null", context["example"]) from None


def _whole(value: Any) -> Any:
    # Literal compares by ==, which would let 4.0 pass for 4.
    if not isinstance(value, int):
        raise ValueError("not an integer")
    return value


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise refusal(f"a regular expression ({error})", "'^conv_in$'") from None
    return pattern


def _ascending(edges: list[float]) -> list[float]:
    if any(after <= before for before, after in zip(edges, edges[1:])):
        raise ValueError("not ascending")
    return edges


def _path(path: str) -> str:
    """With the home directory for "~". Raises: ValueError for what no file system takes."""
    if "\0" in path or any(len(os.fsencode(part)) > 255 for part in path.split("/")) or len(os.fsencode(path)) > 4000:
        raise ValueError("no path")
    return os.path.expanduser(path)


def _from_anywhere(path: str) -> str:
    """A directory that is there is meant wherever the run is resumed from; a hub id stays one."""
    local = _path(path)
    return os.path.abspath(local) if os.path.isdir(local) else local


def _integer(least: int, most: int) -> Any:
    bounds = Field(ge=least, le=most)
    return Annotated[int, bounds, says(f"an integer from {least} to {most}", least, (least, most))]


Value = TypeVar("Value")
OrNull = Annotated[Value | None, WrapValidator(_or_null)]

# Upper bounds that no user meets: beyond them a typing mistake would fill memory, or never end
Count = _integer(1, 1_000_000_000)
CountFromZero = _integer(0, 1_000_000_000)
Images = _integer(1, 10_000_000)
ImagesFromTwo = _integer(2, 10_000_000)
Scenes = _integer(1, 1_000_000)  # made here, one by one
ScenesFromTwo = _integer(2, 1_000_000)
BatchSize = _integer(1, 1_000_000)
Pixels = _integer(1, 16_384)
PixelsFromZero = _integer(0, 16_384)
Width = _integer(1, 65_536)  # channels, features
Layers = _integer(1, 2_000)
Population = _integer(1, 1_000_000)
Timesteps = _integer(2, 100_000)
Workers = _integer(0, 512)
CountOrAuto = Annotated[
    Literal["auto"] | Annotated[int, Field(ge=1, le=100_000)], says("an integer from 1 to 100000, or auto", "auto")
]
Seed = Annotated[int, Field(ge=0, lt=2**32), says("an integer from 0 to 4294967295", 0)]
Positive = Annotated[float, Field(gt=0, le=LARGEST), says("a number above 0, up to 3e38", 0.001)]
BinEdges = Annotated[
    list[Annotated[float, Field(ge=0, le=LARGEST)]],
    Field(min_length=2),
    AfterValidator(_ascending),
    says("at least two ascending numbers", "[300e6,310e6]"),
]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST), says("a number from 0 to 3e38", 0.0)]
Negative = Annotated[float, Field(ge=-LARGEST, lt=0), says("a number from -3e38 to below 0", -0.1)]
AboveOne = Annotated[float, Field(gt=1, le=LARGEST), says("a number above 1, up to 3e38", 1.1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1), says("a number between 0 and 1, both excluded", 0.02)]
Fraction = Annotated[float, Field(ge=0, lt=1), says("a number from 0 to below 1", 0.0)]
UpToOne = Annotated[float, Field(gt=0, le=1), says("a number above 0, up to 1", 0.005)]
ClosedFraction = Annotated[float, Field(ge=0, le=1), says("a number from 0 to 1", 0.0)]
Switch = Annotated[bool, says("true, false", "true")]
Signed = Annotated[Literal["auto"] | bool, says("auto, true, false", "auto")]
Name = Annotated[str, Field(min_length=1), says("text", "NAME")]
Directory = Annotated[str, Field(min_length=1), AfterValidator(_path), says("a path", "DIR")]
ModelPath = Annotated[str, Field(min_length=1), AfterValidator(_from_anywhere), says("a directory or a hub id", "DIR")]
Text = Annotated[str, says("text", "TEXT")]
File = Annotated[str, Field(min_length=1), AfterValidator(_path), says("a path", "FILE.safetensors")]
PromptsFile = Annotated[str, Field(min_length=1), AfterValidator(_path), says("a path", "prompts.txt")]
TableFile = Annotated[str, Field(min_length=1), AfterValidator(_path), says("a path", "FILE.npz")]
SplitFile = Annotated[str, Field(min_length=1), AfterValidator(_path), says("a path", "cifar-split.txt")]
Pattern = Annotated[str, AfterValidator(_compiles), says("a regular expression", "'^conv_in$'")]
Bits = Annotated[
    Literal[2, 3, 4, 5, 6, 7, 8, 32],
    BeforeValidator(_whole),
    says("2, 3, 4, 5, 6, 7, 8, or 32 (not quantized)", 8, (*range(2, 9), 32)),
]
TrainedBits = Annotated[
    Literal[1, 2, 3, 4, 5, 6, 7, 8, 32],
    BeforeValidator(_whole),
    says("1, 2, 3, 4, 5, 6, 7, 8, or 32 (not quantized)", 2, (*range(1, 9), 32)),
]
BinaryBits = Annotated[Literal[1, 32], BeforeValidator(_whole), says("1, or 32 (not quantized)", 1)]
GradientBits = Annotated[
    Literal[2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 32],
    BeforeValidator(_whole),
    says("2 to 16, or 32 (not quantized)", 8, (*range(2, 17), 32)),
]
UnquantizedBits = Annotated[
    Literal[32], BeforeValidator(_whole), says("32 (quantizer=none; the others take fewer)", 32)
]
UnquantizedGradientBits = Annotated[
    Literal[32], BeforeValidator(_whole), says("32 (this quantizer quantizes no gradient)", 32)
]
UpscalingFactor = Annotated[Literal[2, 3, 4], BeforeValidator(_whole), says("2, 3, 4", 2)]
Stride = Annotated[Literal[1, 2], BeforeValidator(_whole), says("1, 2", 1)]
Channels = Annotated[Literal[1, 3], BeforeValidator(_whole), says("1 (grey), 3 (RGB)", 3)]
