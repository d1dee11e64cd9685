"""What all methods' sections have: what they work on, and what the rest of the house asks of them."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from quantlab.config.catalog import own_choice
from quantlab.config.fields import Name
from quantlab.config.sections import Parts, Section, Targeted, options_of_kind


class Curve(NamedTuple):
    """A line of figures that is always drawn alike: its labels, of which a figure has one, and matplotlib's properties.
    The thicker is drawn later, on top.
    """

    labels: tuple[str, ...]
    color: str
    linestyle: str = "-"
    linewidth: float = 1.4
    marker: str = ""


class Method(Targeted):
    """`model_kinds`, `task_kinds`, `quantizer_kind`: what the method works with (empty: anything); `quantizes`: whether
    it needs bits; `trains_network`: whether it trains the network as a whole: torchrun may start it, trainer.compile
    compile it, and an epoch is a walk through the task's images; `divides_batches`: whether torchrun may start it
    all the same; `not_compiled`: why trainer.compile cannot nevertheless; `makes_steps`: whether it has a loop at
    all; `loads_data`: whether other processes can load for it; `judges_samples`: whether it measures the FID of a
    denoiser's samples, so that it needs a feature network; `opens_run`: whether it acts on the finished run that
    its key `run` names.

    For tables and pages: `variant_keys`: what `variant` tells, so that they are no settings; `main_metrics`: what tells
    how good a run is before the task's; `own_pretraining`: whether its YAML sets model.pretrain.seed to the run's own
    seed; `row_baselines`: baselines of its results that are rows of tables, and what
    these call them; `sampled_from`: whether method=sample reads
    what it leaves; `finds_subnet`: whether its results name a subnet to be trained alone; `files`: what a page says of
    the files it leaves, by name; `curves`: its own in figures.
    """

    group = "method"
    model_kinds: ClassVar[tuple[str, ...]] = ()
    task_kinds: ClassVar[tuple[str, ...]] = ()
    quantizer_kind: ClassVar[str | None] = None
    quantizes: ClassVar[bool] = False
    trains_network: ClassVar[bool] = False
    divides_batches: ClassVar[bool] = False
    not_compiled: ClassVar[str | None] = None
    makes_steps: ClassVar[bool] = True
    loads_data: ClassVar[bool] = True
    judges_samples: ClassVar[bool] = False
    opens_run: ClassVar[bool] = False
    variant_keys: ClassVar[tuple[str, ...]] = ()
    main_metrics: ClassVar[tuple[str, ...]] = ()
    own_pretraining: ClassVar[bool] = False
    row_baselines: ClassVar[Mapping[str, str]] = {}
    sampled_from: ClassVar[bool] = False
    finds_subnet: ClassVar[bool] = False
    files: ClassVar[Mapping[str, str]] = {}
    curves: ClassVar[tuple[Curve, ...]] = ()
    name: Name

    @classmethod
    def variant(cls, config: Mapping[str, Any]) -> str:
        """Which of its kinds the run of a config is, as tables name it (`METHOD/variant`); "" where there is one kind.

        config: plain data, of any age; a key may be missing.
        """
        return ""

    def check(self, parts: Parts) -> Iterator[str]:
        misfit = None if parts.model is None else parts.model.misfit(self)
        yield from self._wrong_kind("model", self.model_kinds, parts.model) if misfit is None else [misfit]
        yield from self._wrong_kind("task", self.task_kinds, parts.task)
        if parts.quantizer is not None:
            yield from self._wrong_bits(parts.quantizer)

    def best(self, group: str, fitting: list[str]) -> str:
        """Of options that fit, the one that choosing the method brings along, or else the first."""
        own = own_choice(self.name, group)
        return own if own in fitting else fitting[0]

    def _wrong_kind(self, group: str, kinds: tuple[str, ...], section: Section | None) -> Iterator[str]:
        if section is None or not kinds or section.kind in kinds:
            return
        fitting = options_of_kind(group, kinds)
        yield (
            f"{group}: got '{section.name}' (a {section.kind}), but method={self.name} needs a {' or '.join(kinds)}"
            f" {group}, one of: {', '.join(fitting)}; type {group}={self.best(group, fitting)}"
        )

    def _wrong_bits(self, quantizer: Section) -> Iterator[str]:
        weight, activation = quantizer.weight.bits, quantizer.activation.bits
        if self.quantizes and quantizer.kind != self.quantizer_kind:
            fitting = options_of_kind("quantizer", (self.quantizer_kind,))
            what = "nothing to quantize" if quantizer.name == "none" else f"a {quantizer.kind} one"
            yield (
                f"quantizer: got '{quantizer.name}' ({what}), but method={self.name} needs a {self.quantizer_kind}"
                f" quantizer, one of: {', '.join(fitting)}; type quantizer={self.best('quantizer', fitting)}"
            )
        elif self.quantizes and weight == activation == 32:
            yield (
                "quantizer.weight.bits and quantizer.activation.bits: got 32 for both, nothing to quantize for "
                f"method={self.name}; type quantizer.weight.bits=4"
            )
        elif self.opens_run and self.run is not None:
            return  # the quantizer is that run's
        elif not self.quantizes and not weight == activation == quantizer.gradient.bits == 32:
            instead = ", or method.run=DIR for what a finished run quantized" if self.opens_run else ""
            yield f"quantizer: got '{quantizer.name}', but method={self.name} takes none; type quantizer=none{instead}"


def part_of(config: Mapping[str, Any], *keys: str) -> Any:
    """What stands under nested keys of plain data; None where one is missing."""
    found: Any = config
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
