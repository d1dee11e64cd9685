"""What conf/method/supernet.yaml may hold. The values' meaning is said there."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from quantlab.config.effects import GIVEN, Acts, only_if
from quantlab.config.fields import (
    AboveOne,
    BatchSize,
    BinEdges,
    Count,
    CountFromZero,
    Fraction,
    Images,
    Name,
    NotNegative,
    OrNull,
    Population,
    Positive,
    Strict,
    Switch,
    TableFile,
    UpToOne,
    says,
)
from quantlab.config.methods.base import Curve, Method, part_of
from quantlab.config.sections import Parts

RANKING = "ranking.csv"  # in the run's directory


class StandAlone(Strict):
    subnets: CountFromZero
    steps: Count


class Ranking(Strict):
    truth: OrNull[TableFile]
    column: OrNull[Name]
    subset: OrNull[Name]
    subnets: OrNull[Count]
    images: OrNull[Images]
    batches: Literal["whole", "random"]
    batch_size: BatchSize
    batch_norm: Literal["batch", "recalibrated"]
    calibration_images: Images
    stand_alone: StandAlone


Complexity = Annotated[Literal["parameters", "flops"], says("parameters, flops", "flops")]


class Search(Strict):
    strategy: Literal["evolutionary", "random", "exhaustive"]
    complexity_limit: OrNull[Positive]
    complexity: OrNull[Complexity]
    population: Population
    generations: Count
    parents: Population
    crossover: Population
    mutation: Population
    mutation_probability: UpToOne


class Supernet(Method, target="quantlab.methods.supernet.Supernet"):
    model_kinds = ("supernet",)
    task_kinds = ("classification",)
    trains_network = True
    not_compiled = "computes another subnet at every step"
    variant_keys = ("sampler", "calr", "decay", "momentum_separation")
    finds_subnet = True
    curves = (
        Curve(("supernet/spos", "SPOS"), "#56B4E9", linestyle="--"),
        Curve(("supernet/spos+calr+ms", "SPOS + CaLR + MS"), "#332288", linewidth=2.2),
        Curve(("supernet/spos+calr", "SPOS + CaLR"), "#117733"),
        Curve(("supernet/spos+ms", "SPOS + MS"), "#CC79A7"),
        Curve(("supernet/spos+uniform", "SPOS at CaLR's mean rate"), "#777777", linestyle="--"),
    )
    files = {RANKING: "Every ranked subnet with its score, its accuracy trained alone and its complexity"}
    captions = {
        "ranking": (
            "Accuracy of subnets with the supernet's weights against that of the same networks trained alone, coloured"
            " by complexity; Kendall's τ of the two."
        ),
        "fairness": "Validation loss over training of the supernet's subnets of low, middle and high complexity.",
        "noise": (
            "Cosine between the momentum and the next gradient over training, with its running mean: how much of the"
            " momentum points where the subnet now trained wants to go."
        ),
        "found_subnet": (
            "The subnet found: the operation chosen for each edge or layer; grey and dashed where nothing is computed."
        ),
    }
    effects = (
        Acts("method.fsnas_split", "method.sampler", ("fsnas",)),
        *only_if("method.momentum_separation", (True,), "method.split"),
        Acts("method.decay", "method.calr", (False,)),
        Acts("method.ranking.calibration_images", "method.ranking.batch_norm", ("recalibrated",)),
        Acts("method.search.complexity", "method.search.complexity_limit", GIVEN),
        Acts("method.ranking.stand_alone", "method.ranking.truth", (None,)),
        *only_if(
            "method.search.strategy",
            ("evolutionary", "random"),
            "method.search.population",
            "method.search.generations",
        ),
        *only_if(
            "method.search.strategy",
            ("evolutionary",),
            *(f"method.search.{key}" for key in ("parents", "crossover", "mutation", "mutation_probability")),
        ),
    )
    sampler: Literal["spos", "fairnas", "fsnas"]
    fsnas_split: CountFromZero
    flops_bins: OrNull[BinEdges]
    epochs: Count
    batch_size: BatchSize
    learning_rate: Positive
    momentum: Fraction
    weight_decay: NotNegative
    gradient_clip: OrNull[Positive]
    calr: Switch
    gamma_max: AboveOne
    complexity: Complexity
    decay: Literal["cosine", "uniform", "constant"]
    momentum_separation: Switch
    split: OrNull[CountFromZero]
    inactive_parameters: Literal["frozen", "decayed"]
    ranking: Ranking
    search: Search

    @classmethod
    def variant(cls, config: Mapping[str, Any]) -> str:
        """The sampler, then what is not the plain cosine schedule: `spos+calr+ms`, `fairnas+constant`."""
        section = part_of(config, "method") or {}
        if "sampler" not in section:
            return ""
        rate = "calr" if section["calr"] else section["decay"]
        more = [] if rate == "cosine" else [rate]
        return "+".join([section["sampler"], *more, *(["ms"] if section["momentum_separation"] else [])])

    def check(self, parts: Parts) -> Iterator[str]:
        yield from super().check(parts)
        if self.sampler == "fsnas" and self.momentum_separation and self.split == self.fsnas_split:
            yield (
                f"method.split: got {self.split}, the decision that sampler=fsnas fixes (method.fsnas_split): one"
                " operation is left there, and momentum needs several to separate by; type method.split=null"
            )
        if self.sampler == "fairnas" and self.flops_bins is not None:
            yield (
                "method.flops_bins: got bins, but sampler=fairnas draws subnets that have every operation once"
                " together, whatever their FLOPs, allowed: null; type method.flops_bins=null, or method.sampler=spos"
            )
        for key in ("column", "subset"):
            given = getattr(self.ranking, key)
            if given is not None and self.ranking.truth is None:
                yield (
                    f"method.ranking.{key}: got '{given}' of a table, but method.ranking.truth is null, allowed: null;"
                    f" type method.ranking.truth=FILE.npz or method.ranking.{key}=null"
                )
