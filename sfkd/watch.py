"""What a run sums up and watches for while it trains, kept on the device between two readings."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from torch import Tensor

from sfkd.distillers import Result

TARGET_RATIO = (0.5, 2.0)


class TrainingDiverged(RuntimeError):
    """A loss that is no longer finite, or a target that moves; the message names part, layer and step."""


class Watch:
    """Sums of the losses of an epoch, the first step at which each was not finite, and the ratios of target variance.

    `add` reads nothing from the device; `check` and `means` do.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.names: list[str] = []
        self.layers: list[str] = []
        self.steps = 0
        self.checked = 0
        self.totals = self.broken = self.ratios = self.recent = torch.zeros(0, device=device)

    def add(self, result: Result, step: int) -> None:
        """Count one batch of step `step`, numbered from 1."""
        values = {"loss": result.loss.detach(), **result.parts, **result.layers}
        values |= {f"weight_{part}": weight for part, weight in result.weights.items()}
        if not self.names:
            self._begin(list(values), list(result.target_ratios))
        stacked = torch.stack([value.float() for value in values.values()])
        self.totals = self.totals + stacked
        self.broken = torch.minimum(self.broken, torch.where(stacked.isfinite(), math.inf, float(step)))
        if self.layers:
            ratios = torch.stack([ratio.float() for ratio in result.target_ratios.values()])
            self.ratios, self.recent = self.ratios + ratios, self.recent + ratios
        self.steps += 1

    def check(self, accelerator: Accelerator, run: str, epoch: int) -> None:
        """Read the flags; what is wrong on one process stops all.

        Raises:
            TrainingDiverged: a part was not finite, or the variance of a target left 0.5 … 2 times that of the
            parameter-free one (a refinement of the teacher's side that is trained brings it to zero, or inflates it).
        """
        since = self.steps - self.checked
        if since == 0:
            return
        self.checked = self.steps
        broken = accelerator.gather(self.broken[None]).amin(0).tolist()
        ratios = (accelerator.reduce(self.recent, reduction="mean") / since).tolist()
        self.recent = torch.zeros_like(self.recent)
        if min(broken) < math.inf:
            raise TrainingDiverged(self._explain(broken, run, epoch))
        for layer, ratio in zip(self.layers, ratios, strict=True):
            if not TARGET_RATIO[0] <= ratio <= TARGET_RATIO[1]:
                raise TrainingDiverged(
                    f"{run}: the target of layer {layer} has {ratio:.3g} times the variance of the fixed one (epoch "
                    f"{epoch}): something on the teacher's side is trained, and it {'shrinks' if ratio < 1 else 'inflates'} "
                    "what the student is compared with. Refine the student's side only."
                )

    def loss(self) -> float:
        """Mean loss of this process since the epoch began; waits for the device."""
        return float(self.totals[0] / self.steps)

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over the steps of all processes: loss, parts, changing weights, and the target ratio farthest from 1."""
        means = (accelerator.reduce(self.totals, reduction="mean") / self.steps).tolist()
        row = {name: mean for name, mean in zip(self.names, means, strict=True) if "/" not in name}
        if self.layers:
            ratios = (accelerator.reduce(self.ratios, reduction="mean") / self.steps).tolist()
            row["target_ratio"] = max(ratios, key=lambda ratio: abs(math.log(max(ratio, 1e-12))))
        return row

    def state(self, accelerator: Accelerator) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Tensors and plain values from which `load` goes on; of several processes, their mean."""
        totals, ratios = (accelerator.reduce(x.clone(), reduction="mean") for x in (self.totals, self.ratios))
        return {"totals": totals, "ratios": ratios}, {"names": self.names, "layers": self.layers, "steps": self.steps}

    def load(self, tensors: dict[str, Tensor], plain: dict[str, object]) -> None:
        """Go on from a `state`."""
        self._begin(list(plain["names"]), list(plain["layers"]))  # type: ignore[call-overload]
        self.totals, self.ratios = (tensors[name].to(self.device) for name in ("totals", "ratios"))
        self.steps = self.checked = int(plain["steps"])  # type: ignore[call-overload]

    def _begin(self, names: list[str], layers: list[str]) -> None:
        self.names, self.layers = names, layers
        self.totals = torch.zeros(len(names), device=self.device)
        self.broken = torch.full((len(names),), math.inf, device=self.device)
        self.ratios = self.recent = torch.zeros(len(layers), device=self.device)

    def _explain(self, broken: list[float], run: str, epoch: int) -> str:
        # what broke first; a step later the weights are broken, and with them everything
        step = min(broken)
        first = [name for name, at in zip(self.names, broken, strict=True) if at == step]
        parts = [name for name in first if "/" not in name and name != "loss"] or ["loss"]
        layers = [name.split("/", 1)[1] for name in first if "/" in name and name.split("/", 1)[0] in parts]
        where = f", first at layer {layers[0]}" if layers else ""
        return (
            f"{run}: {' and '.join(parts)} became NaN or infinite in epoch {epoch}, step {step:.0f}{where}. "
            "The last checkpoint is kept; lower schedule.lr or the weight of that part."
        )
