"""What AccuQuant and its step-by-step baselines share: data, quantizers, learned parameters, and evaluation.

A subclass only defines its phases; everything else is identical, so that a comparison is between objectives alone.
"""

import bisect
import itertools
import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor

from quantlab.config import instantiate
from quantlab.diffusion.bias_correction import output_biases
from quantlab.diffusion.rollout import Network, network_step
from quantlab.diffusion.samplers import State
from quantlab.diffusion.trajectories import GroupDataset
from quantlab.errors import RequestError, RunError
from quantlab.methods.base import Method, Outcome, RunContext, seeded
from quantlab.methods.denoiser_samples import DRAWN, look_at
from quantlab.methods.generation_evaluator import GenerationEvaluator, decoded, fetch_trajectories
from quantlab.methods.learning_memory import require_memory
from quantlab.methods.ptq.objective import Phase
from quantlab.methods.ptq.quantized_denoiser import QuantizedDenoiser
from quantlab.models.model_file import tensors_of
from quantlab.quantizers import adaround
from quantlab.quantizers.calibration import grouped_activations
from quantlab.quantizers.insert import planned_bits, quantizable_layers
from quantlab.quantizers.policy import LayerBits
from quantlab.quantizers.presets import chosen
from quantlab.quantizers.rounding import fix_rounding, learn_rounding

logger = logging.getLogger("quantlab")


class DiffusionPTQ(Method):
    """Base of the methods that quantize a diffusion model after training."""

    label: str  # its name in tables and figures

    def __init__(self, section, context: RunContext):
        super().__init__(section, context)
        if context.processes.count > 1:
            self.require_work_for_several()
        # refuses what cannot be quantized, or does not fit, before any work
        planned = planned_bits(context.model.unet, instantiate(context.config.quantizer))
        layers = quantizable_layers(context.model.unet)
        sizes = {name: layers[name].weight.numel() for name, bits in planned.items() if bits.weight != 32}
        all_parameters = sum(one.numel() for one in context.model.unet.parameters())
        if section.learns:
            rounding = section.learn.rounding and context.config.quantizer.weight.rounding != "nearest"
            require_memory(sum(sizes.values()), all_parameters - sum(sizes.values()), rounding, context.device)
        self.sampler = context.model.sampler
        if section.group_size > len(self.sampler):
            raise RequestError(
                f"method.group_size: got {section.group_size}, allowed: 1 to {len(self.sampler)}, the steps of a walk;"
                f" type method.group_size={len(self.sampler)}"
            )
        self.groups = self.active_groups(section.group_size)
        self.single_steps = self.active_groups(1)
        if len(self.sampler) % section.group_size:
            logger.info(
                "group_size=%d does not divide %d denoising steps: the last group has %d",
                section.group_size,
                len(self.sampler),
                len(self.sampler.groups(section.group_size)[-1]),
            )
        self.network_evaluations = 0.0  # forward passes of one batch; a backward pass counts as two
        self.phases = self.make_phases()
        self.steps = sum(phase.iterations for phase in self.phases)
        self.phase: Phase | None = None  # the current one

    def require_work_for_several(self) -> None:
        """Raises RequestError where several processes cannot divide the work: batches of equal shares, and nothing to
        train before it, which one of them would do while the others wait.
        """
        size, count = self.section.batch_size, self.context.processes.count
        if size % count:
            raise RequestError(
                f"method.batch_size: got {size}, allowed: multiples of the {count} processes; type"
                f" method.batch_size={-(-size // count) * count}, or another --nproc-per-node"
            )
        try:
            self.context.provide_full_precision()
            self.context.feature_network()
        except RequestError as error:
            raise RequestError(
                f"{error}; or run this command without torchrun, with method=ptq method.reconstruction=none, which"
                " trains all that is missing and keeps it in cache_dir"
            ) from None

    def shared(self, rows: Tensor) -> Tensor:
        """This process's share of `rows`, int64 [N], as the first process drew them."""
        processes = self.context.processes
        return processes.share(processes.sum(rows if processes.is_first else torch.zeros_like(rows)))

    def make_phases(self) -> list[Phase]:
        """What is minimized, in order; without phases nothing is learned."""
        raise NotImplementedError  # defined by every method

    def active_groups(self, group_size: int) -> list[range]:
        """The groups of `group_size` steps of the walk, without those whose steps are all skipped."""
        return [steps for steps in self.sampler.groups(group_size) if self.sampler.active(steps)]

    # data ----------------------------------------------------------------------------------------------------------
    def batch_indices(self, step: int) -> list[tuple[range, int]]:
        rows = seeded(self.context.config.seed, 1, step).choice(
            self.section.calibration.trajectories, self.section.batch_size, replace=False
        )
        steps = self.denoising_steps(step)
        return [(steps, int(row)) for row in rows]

    def denoising_steps(self, step: int) -> range:
        """The denoising steps of iteration `step`."""
        number = self.phase_at(step)
        return self.phases[number].objective.denoising_steps(step, self.phase_starts[number])

    def phase_at(self, step: int) -> int:
        """The number of the phase to which iteration `step` belongs."""
        return bisect.bisect_right(self.phase_starts, step, hi=len(self.phases)) - 1

    def cost(self, step: int) -> float:
        return self.phases[self.phase_at(step)].objective.evaluations(self.sampler.active(self.denoising_steps(step)))

    def shuffled(self, groups: list[range], step: int) -> range:
        """Each group once per round, in an order drawn anew for every round: groups share the rounding variables, so
        with a sequential order the last group would overwrite what the first ones learned.
        """
        round_, position = divmod(step, len(groups))
        return groups[seeded(self.context.config.seed, 2, round_).permutation(len(groups))[position]]

    # build ---------------------------------------------------------------------------------------------------------
    def build(self, total_steps: int) -> None:
        section, context = self.section, self.context
        # The first step of each phase, and the end. A shortened run shortens all phases equally.
        done = itertools.accumulate((phase.iterations for phase in self.phases), initial=0)
        self.phase_starts = [total_steps * before // max(self.steps, 1) for before in done]
        self.full_precision_sha256 = context.model.fingerprint()
        count = section.calibration.trajectories
        trajectories = fetch_trajectories(
            context, count, context.config.seed, [count] * (len(self.sampler) + 1), "calibration trajectories"
        )
        # before it is quantized
        if context.processes.is_first:
            images = trajectories.images if context.task.has_images else trajectories.images[:DRAWN]
            picture = context.directory.samples / "full_precision.png"
            look_at(context, decoded(context, images, "full precision"), picture)
        self.dataset = GroupDataset(trajectories)
        model = context.model
        self.quantized = QuantizedDenoiser(
            model.unet, context.config.quantizer, len(self.sampler), section.group_size, model.call
        )
        self.quantized.calibrate(trajectories, context.model.guide, section.calibration.range_samples, context.device)
        first = self.sampler.network_input(0, trajectories.state(0, slice(1)).x.to(context.device))
        self.say_of_preset()
        self.described = self.quantized.describe(
            context.model.unet, first, trajectories.condition_of(slice(1), context.device)
        )
        self.ranges_only = self.quantized.snapshot()
        self.loss_scales = self.group_errors([*self.groups, *self.single_steps])
        self.make_learnable()
        self.quantized.drop_float_weights()
        if not any(phase.objective.needs_full_precision for phase in self.phases):
            context.model.release()

    def say_of_preset(self) -> None:
        """Log what the quantizer's preset holds in other bits than it quantizes to."""
        policy, unet = self.quantized.policy, self.context.model.unet
        bits = planned_bits(unet, policy)
        left = {name: bits.get(name, LayerBits(32, 32)) for name in quantizable_layers(unet)}
        other = {name: one for name, one in left.items() if one != policy.whole}
        if policy.preset_rules:
            wide = [name for name in other if name not in bits]
            logger.info(
                "quantizer.preset=%s: of %d layers %d stay in full precision (%s), %d have other bits than the rest",
                chosen(policy.preset, unet),
                len(left),
                len(wide),
                ", ".join(wide[:3]) + ", ..." * (len(wide) > 3),
                len(other) - len(wide),
            )

    def make_learnable(self) -> None:
        unet, section = self.quantized.unet, self.section
        policy = self.context.config.quantizer
        self.weights, self.scales, self.is_soft, self.optimizer = [], [], False, None
        if not self.phases:
            return
        if section.learn.rounding and policy.weight.rounding != "nearest" and policy.weight.bits != 32:
            is_hard = policy.weight.rounding == "straight_through"
            self.weights = learn_rounding(unet, policy.zeta, policy.gamma, straight_through=is_hard)
        self.is_soft = bool(self.weights) and policy.weight.rounding == "adaround"
        if section.learn.activation_scales:
            self.scales = [scale.requires_grad_(True) for q in grouped_activations(unet) for scale in q.log_scale]
        self.make_optimizer()

    def make_optimizer(self) -> None:
        """A new Adam over all learned parameters; `before_step` sets its learning rates."""
        learned = {"rounding": [weight.rounding for weight in self.weights], "activation_scales": self.scales}
        groups = [{"params": parameters, "name": name} for name, parameters in learned.items() if parameters]
        self.optimizer = torch.optim.Adam(groups) if groups else None

    @torch.no_grad()
    def group_errors(
        self, groups: list[range], quantized: QuantizedDenoiser | None = None, rows: int = 64
    ) -> dict[range, float]:
        """Mean squared error per pixel at the end of each group, walked from its full-precision start.

        On the first `rows` calibration trajectories, with the quantized network unless another is given. The errors of
        the calibrated ranges scale the training loss: a loss of 1 is the error after calibration alone.
        """
        chosen, trajectories, device = slice(rows), self.dataset.trajectories, self.context.device
        network = self.context.model.guide((quantized or self.quantized).network)(
            trajectories.condition_of(chosen, device)
        )
        errors = {}
        for steps in groups:
            state = trajectories.state(steps.start, chosen).on(device)
            for i in steps:
                z = trajectories.noise(i, chosen)
                state = network_step(network, self.sampler, i, state, None if z is None else z.to(device))
            errors[steps] = float((state.x - trajectories.state(steps.stop, chosen).x.to(device)).square().mean())
        return errors

    def quantized_network(self, batch: dict) -> Network:
        """The quantized network with guidance and the condition of the walks of `batch`."""
        return self.context.model.guide(self.quantized.network)(batch["condition"])

    def quantized_step(self, batch: dict) -> Callable[[int, State], State]:
        """step(i, state): step i of the quantized walk of the group of `batch`."""
        network, first = self.quantized_network(batch), batch["steps"].start

        def step(i: int, state: State) -> State:
            return network_step(network, self.sampler, i, state, batch["noise"][i - first])

        return step

    # one step ------------------------------------------------------------------------------------------------------
    def before_step(self, step: int) -> None:
        number = self.phase_at(step)
        phase, start, end = self.phases[number], self.phase_starts[number], self.phase_starts[number + 1]
        if phase is not self.phase:
            self.start_phase(phase)
        phase.objective.prepare()
        self.progress = (step - start) / (end - start)  # of the phase, in [0, 1)
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        for group in self.optimizer.param_groups:
            # Soft rounding keeps its rate: it moves most at the end, when beta is small.
            stays = group["name"] == "rounding" and self.is_soft
            group["lr"] = getattr(phase.rates, group["name"]) * (1 if stays else cosine)

    def start_phase(self, phase: Phase) -> None:
        if self.phase is not None:  # a separate optimization, without the previous moments
            self.phase.objective.end()
            self.make_optimizer()
        self.phase = phase
        phase.objective.start()

    def gradients(self, batch: dict) -> dict[str, Tensor]:
        values = self.phase.objective.gradients(batch)
        if (processes := self.context.processes).count > 1:  # means over equal shares of the batch
            for parameter in (parameter for group in self.optimizer.param_groups for parameter in group["params"]):
                if parameter.grad is not None:
                    parameter.grad = processes.sum(parameter.grad) / processes.count
            values["loss"] = processes.sum(values["loss"]) / processes.count
        self.network_evaluations += self.phase.objective.evaluations(self.sampler.active(batch["steps"]))
        return values

    def regularize(self, weights: list) -> dict[str, Tensor]:
        """Add the gradient of lambda f(V), after the warm-up; returns the value of f to log. Hard rounding needs no
        regularization.
        """
        if not self.is_soft:
            return {}
        rule = self.section.rounding_regularizer
        beta = adaround.annealed_beta(self.progress, rule.beta_start, rule.beta_end, rule.warmup)
        if beta is None:
            return {"rounding_penalty": torch.zeros((), device=self.context.device)}
        penalty = sum(adaround.rounding_regularizer(weight.soft(), beta) for weight in weights)
        (rule.weight * penalty).backward()
        return {"rounding_penalty": penalty.detach()}

    def logged(self) -> dict[str, float]:
        row = {"learning_rate": self.optimizer.param_groups[0]["lr"], "network_evaluations": self.network_evaluations}
        if self.is_soft:
            row["unsettled"] = self.unsettled()
        return row

    @torch.no_grad()
    def unsettled(self) -> float:
        soft = torch.cat([weight.soft().flatten() for weight in self.weights])
        return float(adaround.unsettled_share(soft))

    # end -----------------------------------------------------------------------------------------------------------
    def finish(self) -> Outcome:
        diagnostics = {}
        if self.is_soft:
            diagnostics["unsettled"] = self.unsettled()
            diagnostics["soft_error"] = self.relative_error()
        fix_rounding(self.quantized.unet)
        diagnostics["hard_error"] = self.relative_error()
        if not math.isfinite(diagnostics["hard_error"]):
            raise RunError(
                "the quantized network's walks end in NaN or infinity after the last update, although all losses were"
                f" finite; lower {self.rate_key} and start again"
            )
        evaluator = GenerationEvaluator(self.context, self.section.group_size)
        guide = self.context.model.guide
        baseline = evaluator.baseline()
        if self.label != "ranges only":
            baseline["ranges_only"] = evaluator("ranges only", guide(self.ranges_only.network))
        if self.section.bias_correction != "none":
            baseline["uncorrected"] = evaluator("uncorrected", guide(self.quantized.network))
            # As the search of ranges, not counted among the network evaluations: it learns nothing.
            biases = output_biases(
                guide(self.quantized.network),
                self.dataset.trajectories,
                self.groups,
                self.section.bias_correction,
                self.context.task.evaluation.batch_size,
                lambda groups: self.context.progress(groups, "bias correction"),
                self.context.device,
            )
            self.quantized.correct_output(biases)
        metrics = evaluator(self.label, guide(self.quantized.network))
        evaluator.draw()
        return Outcome(
            metrics,
            baseline,
            evaluator.protocol,
            diagnostics,
            {"network_evaluations": round(self.network_evaluations)},
            model=tensors_of(self.quantized.unet),
            network=self.quantized.unet,
            model_facts={
                "timesteps": [t * self.context.model.time_scale for t in self.sampler.timesteps],
                "group_size": self.section.group_size,
                "full_precision_sha256": self.context.model.fingerprint(),
                "bias_steps": list(self.quantized.bias_rows),
            },
        )

    def relative_error(self) -> float:
        """Error at the end of the groups relative to the calibrated ranges, averaged over groups: 1 means no gain."""
        before, now = self.group_errors(self.groups, self.ranges_only), self.group_errors(self.groups)
        ratios = [now[steps] / before[steps] for steps in self.groups if before[steps] > 0]
        return sum(ratios) / max(len(ratios), 1)

    # memory --------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict:
        state = {
            "network": self.quantized.unet.state_dict(),
            "network_evaluations": self.network_evaluations,
            "full_precision": self.full_precision_sha256,
        }
        if self.phase is not None:
            state |= {"phase": self.phases.index(self.phase), "objective": self.phase.objective.state_dict()}
        return state | ({"optimizer": self.optimizer.state_dict()} if self.optimizer else {})

    def load_state_dict(self, state: dict) -> None:
        if state.get("full_precision", self.full_precision_sha256) != self.full_precision_sha256:
            raise RunError(
                "the full-precision model is not the one that this run started with; restore it (model.path,"
                " model.weights), or start a new run"
            )
        self.quantized.load(state["network"], "the checkpoint")
        self.network_evaluations = state["network_evaluations"]
        if "phase" in state:
            self.phase = self.phases[state["phase"]]
            self.phase.objective.load_state_dict(state["objective"])
        if self.optimizer:
            self.optimizer.load_state_dict(state["optimizer"])
