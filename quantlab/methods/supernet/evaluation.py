"""Evaluation of a trained supernet: its ranking of subnets, against networks trained alone, and the search for the
best.
"""

import logging

import numpy as np

from quantlab.config import to_plain
from quantlab.methods.base import Outcome, RunContext, seeded
from quantlab.methods.supernet import figures, streams
from quantlab.methods.supernet.stand_alone import different_subnets, train_alone
from quantlab.methods.supernet.trained import TrainedSupernet
from quantlab.report.commands import training_command
from quantlab.search.ranking import Ranking, rank, save_ranking
from quantlab.search.spaces import MEASURES, SearchSpace, Subnet
from quantlab.search.strategies import ComplexityLimit, evolutionary_search, exhaustive, random_search
from quantlab.search.truth import TruthTable

logger = logging.getLogger("quantlab")


def evaluate(
    supernet: TrainedSupernet, section, context: RunContext, table: TruthTable | None, limit: ComplexityLimit | None
) -> Outcome:
    """Ranking, search, figures. section: the method's; table: a benchmark's accuracies, or None to train subnets alone
    here; limit: on the complexity of searched subnets.
    """
    space = context.model.space
    truth, indices = (
        stand_alone_truth(space, section, context) if table is None else chosen_subnets(table, section, context)
    )
    ranking = ranked(supernet, truth, indices, section, context) if len(indices) else None
    found, validated = best_subnet(supernet, section, context, limit)
    metrics = {} if ranking is None else ranking.metrics
    metrics["top1"] = supernet.accuracies([found], "test", supernet.images("test"))[0]
    if space.index(found) in set(truth.indices.tolist()):
        for name in ranking.truth:
            alone = "top1_alone" if name == ranking.main else f"top1_alone_{name}"
            metrics[alone] = float(truth.lookup(name, [space.index(found)])[0])
    encoding = space.encode(found)
    logger.info(
        "found %s: %.2f %% on validation and %.2f %% on test images with the supernet's weights; train it alone"
        " with: %s",
        encoding,
        validated,
        metrics["top1"],
        training_command(to_plain(context.config), encoding),
    )
    if context.accelerator.is_main_process:
        draw(ranking, found, space, section, context)
    protocol = {
        "ranked_subnets": len(indices),
        "ranking_images": supernet.validation_images.images,
        "batch_norm": section.ranking.batch_norm,
        "search": section.search.strategy,
        "top1": "of the subnet found, with the supernet's weights",
    } | context.task.protocol()
    if ranking is not None:
        protocol["truth"] = "stand_alone_training" if table is None else ranking.main
    if section.ranking.batches == "random":
        protocol["ranking_batches"] = "random"
    diagnostics = {"found": encoding, "found_supernet_accuracy": validated} | {
        f"found_{measure}": space.complexity(found, measure) for measure in MEASURES
    }
    return Outcome(
        metrics=metrics,
        baseline={} if ranking is None else {"complexity_alone": ranking.by_complexity},
        protocol=protocol,
        diagnostics=diagnostics,
        model=supernet.state_dict(),
        model_facts={"weights": "last step", "sampler": section.sampler},
    )


def chosen_subnets(table: TruthTable, section, context: RunContext) -> tuple[TruthTable, np.ndarray]:
    """The table, and the indices of its subnets to rank."""
    indices, count = table.subset(section.ranking.subset), section.ranking.subnets
    if count is not None and count < len(indices):
        rng = seeded(context.config.seed, streams.STAND_ALONE)
        indices = np.sort(rng.choice(indices, count, replace=False))
    return table, indices


def stand_alone_truth(space: SearchSpace, section, context: RunContext) -> tuple[TruthTable, np.ndarray]:
    """Accuracies of a sample of subnets, each trained alone, and their indices; empty with
    `ranking.stand_alone.subnets=0`.
    """
    ranking = section.ranking
    if not ranking.stand_alone.subnets:
        return TruthTable(np.arange(0), {}), np.arange(0)
    rng = seeded(streams.STAND_ALONE)  # without the run's seed: all seeds are compared on the same subnets
    chosen = different_subnets(space, ranking.subnets or ranking.stand_alone.subnets, rng)
    table = train_alone(context, space, chosen, ranking.stand_alone.steps)
    return table, table.indices


def ranked(supernet: TrainedSupernet, truth: TruthTable, indices: np.ndarray, section, context: RunContext) -> Ranking:
    """The ranking of the subnets `indices`; the main process writes it to ranking.csv."""
    space = context.model.space
    subnets = [space.subnet(int(index)) for index in indices]
    scores = supernet.accuracies(subnets, "ranking", supernet.validation_images)
    complexities = [space.complexity(subnet, section.complexity) for subnet in subnets]
    ranking = rank(truth, indices, scores, complexities, section.ranking.column)
    if context.accelerator.is_main_process:
        save_ranking(
            context.directory.ranking_path,
            [space.encode(subnet) for subnet in subnets],
            scores,
            {name: values.tolist() for name, values in ranking.truth.items()},
            section.complexity,
            complexities,
        )
    return ranking


def best_subnet(
    supernet: TrainedSupernet, section, context: RunContext, limit: ComplexityLimit | None
) -> tuple[Subnet, float]:
    """The best subnet by its accuracy on validation images with the supernet's weights, and that accuracy (percent)."""
    space, search, rng = context.model.space, section.search, seeded(context.config.seed, streams.SEARCH)

    def score(subnets: list[Subnet]) -> list[float]:
        return supernet.accuracies(subnets, "search", supernet.validation_images)

    if search.strategy == "exhaustive":
        scored = exhaustive(space, score, limit)
    elif search.strategy == "random":
        scored = random_search(space, score, search.population * search.generations, rng, limit)
    else:
        scored = evolutionary_search(
            space,
            score,
            rng,
            limit,
            population=search.population,
            generations=search.generations,
            parents=search.parents,
            crossover=search.crossover,
            mutation=search.mutation,
            mutation_probability=search.mutation_probability,
        )
    return scored[0]


def draw(ranking: Ranking | None, found: Subnet, space: SearchSpace, section, context: RunContext) -> None:
    """Write the run's figures."""
    folder, rows = context.directory.figures, context.directory.metrics.read()
    if ranking is not None:
        figures.ranking_scatter(
            ranking.scores,
            ranking.truth[ranking.main].tolist(),
            ranking.complexities,
            ranking.main,
            ranking.metrics["kendall_tau"],
            folder / "ranking.png",
            parameters_tau=ranking.by_complexity["kendall_tau"],
            measure=section.complexity,
        )
    figures.fairness_curves(rows, folder / "fairness.png")
    figures.noise_curve(rows, folder / "noise.png")
    operations, title = [space.operations[operation] for operation in found], f"found: {space.encode(found)}"
    if hasattr(space, "edges"):
        figures.cell_graph(operations, list(space.edges), title, folder / "found_subnet.png")
    else:
        figures.chain_figure(operations, list(space.decisions), title, folder / "found_subnet.png")
