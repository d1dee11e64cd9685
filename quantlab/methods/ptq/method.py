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

from quantlab.diffusion.rollout import Network, network_step
from quantlab.diffusion.samplers import State
from quantlab.diffusion.trajectories import GroupDataset
from quantlab.errors import RunError
from quantlab.methods.base import Method, Outcome, RunContext, seeded
from quantlab.methods.denoiser_samples import DRAWN, look_at
from quantlab.methods.generation_evaluator import fetch_trajectories
from quantlab.methods.ptq.group_errors import group_errors, relative_error
from quantlab.methods.ptq.objective import Phase
from quantlab.methods.ptq.outcome import evaluated
from quantlab.methods.ptq.quantized_denoiser import QuantizedDenoiser
from quantlab.methods.ptq.requirements import require_possible
from quantlab.methods.sample_measures import images_of
from quantlab.quantizers import adaround
from quantlab.quantizers.calibration import grouped_activations
from quantlab.quantizers.rounding import fix_rounding, learn_rounding

logger = logging.getLogger("quantlab")


class DiffusionPTQ(Method):
    """Base of the methods that quantize a diffusion model after training."""

    label: str  # its name in tables and figures

    def __init__(self, section, context: RunContext):
        super().__init__(section, context)
        require_possible(section, context)
        self.sampler = context.model.sampler
        self.groups = self.active_groups(section.group_size)
        self.single_steps = self.active_groups(1)
        if len(self.sampler) % section.group_size:
            shorter = len(self.sampler.groups(section.group_size)[-1])
            text = "group_size=%d does not divide %d denoising steps: the last group has %d"
            logger.info(text, section.group_size, len(self.sampler), shorter)
        self.network_evaluations = 0.0  # forward passes of one batch; a backward pass counts as two
        self.phases = self.make_phases()
        self.steps = sum(phase.iterations for phase in self.phases)
        self.phase: Phase | None = None  # the current one
        # Of gradients in float16; in other types it leaves all as it is. Losses are about 1 and their gradients not as
        # small as those of training: torch's own start, 2^16, overflows.
        self.scaler = torch.amp.GradScaler(
            context.device.type, init_scale=2.0**8, growth_interval=100, enabled=context.model.is_half
        )

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
            images = images_of(context, images, "full precision")
            look_at(context, images, context.directory.samples / "full_precision.png")
        self.dataset = GroupDataset(trajectories)
        model = context.model
        self.quantized = QuantizedDenoiser(
            model.unet, context.config.quantizer, len(self.sampler), section.group_size, model.call
        )
        samples, batch_size = section.calibration.range_samples, context.task.evaluation.batch_size
        self.quantized.calibrate(trajectories, model.guide, samples, batch_size, context.device)
        first = self.sampler.network_input(0, trajectories.state(0, slice(1)).x.to(context.device))
        self.quantized.say_of_preset(model.unet)
        self.described = self.quantized.describe(
            context.model.unet, first, trajectories.condition_of(slice(1), context.device)
        )
        self.ranges_only = self.quantized.snapshot()
        self.loss_scales = self.group_errors([*self.groups, *self.single_steps])
        self.make_learnable()
        self.quantized.drop_float_weights()
        if not any(phase.objective.needs_full_precision for phase in self.phases):
            context.model.release()

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
        """A new Adam over all learned parameters; `before_step` sets its learning rates. On CUDA one kernel makes the
        update: what torch does there by itself takes as much memory again as the parameters.
        """
        learned = {"rounding": [weight.rounding for weight in self.weights], "activation_scales": self.scales}
        groups = [{"params": parameters, "name": name} for name, parameters in learned.items() if parameters]
        fused = self.context.device.type == "cuda" or None
        self.optimizer = torch.optim.Adam(groups, fused=fused) if groups else None

    def group_errors(self, groups: list[range], quantized: QuantizedDenoiser | None = None) -> dict[range, float]:
        """Of the quantized network, unless another is given."""
        conditional = self.context.model.guide((quantized or self.quantized).network)
        batch_size = self.context.task.evaluation.batch_size
        return group_errors(conditional, self.dataset.trajectories, groups, self.context.device, batch_size)

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
                if parameter.grad is not None:  # in its own memory
                    parameter.grad.copy_(processes.sum(parameter.grad) / processes.count)
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
        total = torch.zeros((), device=self.context.device)
        for weight in weights:  # one graph at a time
            penalty = adaround.rounding_regularizer(weight.soft(), beta)
            self.scaler.scale(rule.weight * penalty).backward()
            total = total + penalty.detach()
        return {"rounding_penalty": total}

    def update(self) -> None:
        """No update where a scaled gradient overflows; the next ones are then scaled less."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def logged(self) -> dict[str, float]:
        row = {"learning_rate": self.optimizer.param_groups[0]["lr"], "network_evaluations": self.network_evaluations}
        if self.is_soft:
            row["unsettled"] = self.unsettled()
        return row

    @torch.no_grad()
    def unsettled(self) -> float:
        counts = torch.stack([adaround.unsettled_count(weight.soft()) for weight in self.weights])
        return float(counts.sum().float() / sum(weight.codes.numel() for weight in self.weights))

    # end -----------------------------------------------------------------------------------------------------------
    def finish(self) -> Outcome:
        diagnostics = {}
        if self.is_soft:
            diagnostics["unsettled"] = self.unsettled()
            diagnostics["soft_error"] = self.relative_error()
        fix_rounding(self.quantized.unet)
        self.weights, self.scales, self.optimizer = [], [], None  # a multiple of the network's memory
        diagnostics["hard_error"] = self.relative_error()
        if not math.isfinite(diagnostics["hard_error"]):
            raise RunError(
                "the quantized network's walks end in NaN or infinity after the last update, although all losses were"
                f" finite; lower {self.rate_key} and start again"
            )
        return evaluated(self, diagnostics)

    def relative_error(self) -> float:
        return relative_error(self.group_errors(self.groups, self.ranges_only), self.group_errors(self.groups))

    # memory --------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict:
        state = {
            "network": self.quantized.unet.state_dict(),
            "network_evaluations": self.network_evaluations,
            "full_precision": self.full_precision_sha256,
        }
        if self.phase is not None:
            state |= {"phase": self.phases.index(self.phase), "objective": self.phase.objective.state_dict()}
        if self.context.model.is_half:
            state["scaler"] = self.scaler.state_dict()
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
        if "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])
        if self.optimizer:
            self.optimizer.load_state_dict(state["optimizer"])
