"""Switches of the training loop, sharded students, runs stopped inside an epoch; and no host sync inside a step."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import CONVNEXT, assert_same_weights, quietly, weights
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import sfkd.train
from sfkd import Backbone, create_distiller, list_distillers
from sfkd.config import Recipe
from sfkd.runs import RunError, RunFolder
from sfkd.train import train
from sfkd.watch import Watch

RecipeOf = Callable[..., Recipe]
Tiny = Callable[..., Backbone]

# -- no host synchronisation -----------------------------------------------------------------------------------------------


class Reads(TorchDispatchMode):
    """Counts operations whose result the host must wait for, or whose shape depends on values."""

    NAMES = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2", "unique_dim")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put_", "index_put") and any(
            isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if name in self.NAMES or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the reads in the block; some bypass the dispatcher on the CPU and are caught by name."""
    reads = Reads()
    with monkeypatch.context() as patch, reads:
        for name in ("tolist", "numpy", "cpu"):
            original = getattr(Tensor, name)
            patch.setattr(
                Tensor, name, lambda self, *a, _o=original, _n=name, **k: (reads.found.append(_n), _o(self, *a, **k))[1]
            )
        yield reads.found


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: x.tolist(),
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: float(x[0]),
        lambda x: x.unique(),
    ],
)
def test_a_planted_read_is_counted(read: Callable[[Tensor], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(3.0)
    with counted(monkeypatch) as found:
        read(x)
    assert found


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("method", list_distillers())
def test_no_method_reads_from_the_device_inside_a_step(
    tiny: Tiny, images: Tensor, method: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward, backward, clipping, average and the sums of a run; the optimizer keeps its step counters on the host."""
    from timm.utils import ModelEmaV3

    options = {"num_samples": 8} if method == "crd" else {}
    distiller = create_distiller(method, student=tiny("swin"), teacher=tiny("convnext"), **options).train()
    ema, watch = ModelEmaV3(distiller.student, decay=0.9, use_warmup=True), Watch(torch.device("cpu"))
    targets, index = torch.tensor([1, -1, 0, 3]), torch.arange(4)

    def step(number: int) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            result = distiller(images, targets, index)
        result.loss.backward()
        nn.utils.clip_grad_norm_(distiller.parameters(), 1.0)
        watch.add(result, number)
        ema.update(distiller.student, step=number)

    step(1)  # caches of masks and weights are filled once
    with counted(monkeypatch) as found:
        step(2)
    assert found == []


# -- switches --------------------------------------------------------------------------------------------------------------


def test_accumulated_gradients_are_those_of_one_large_batch(tmp_path: Path, recipe: RecipeOf) -> None:
    options: dict[str, Any] = {"student": CONVNEXT}
    one = quietly(recipe(tmp_path / "one", schedule={"batch_size": 16}, **options))
    four = quietly(recipe(tmp_path / "four", schedule={"batch_size": 4, "accumulate": 4}, **options))
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(four)[name], value, rtol=2e-3, atol=2e-4, msg=name)
    assert one.metrics()[-1]["loss"] == pytest.approx(four.metrics()[-1]["loss"], rel=1e-4)


def test_global_batch_counts_accumulated_batches(tmp_path: Path, recipe: RecipeOf) -> None:
    said: list[str] = []
    described = recipe(tmp_path / "run", student=CONVNEXT, schedule={"batch_size": 8, "accumulate": 2, "epochs": 1})
    train(described, progress=False, say=said.append)
    assert "global batch 16" in said[0]
    with pytest.raises(RunError, match=r"no full batch of 16 \(5 of them a step\)"):
        quietly(recipe(tmp_path / "other", schedule={"accumulate": 5}))


def test_gradients_are_clipped_to_the_norm_asked_for(
    tmp_path: Path, recipe: RecipeOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def recorded(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    quietly(recipe(tmp_path / "free", student=CONVNEXT, schedule={"epochs": 1}))
    free, norms[:] = list(norms), []
    quietly(recipe(tmp_path / "clipped", student=CONVNEXT, schedule={"epochs": 1, "clip_norm": 0.05}))
    assert min(free) > 0.05
    assert norms == [pytest.approx(0.05, rel=1e-3)] * len(norms)


def test_the_average_is_evaluated_and_kept(tmp_path: Path, recipe: RecipeOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the average computed by hand from the weights after each step."""
    trained: list[dict[str, Tensor]] = []
    step = sfkd.train._Training._step

    def recorded(self: Any, *args: Any) -> Any:
        if not trained:
            trained.append({k: v.clone() for k, v in self.distiller.student.state_dict().items()})
        results = step(self, *args)
        trained.append({k: v.clone() for k, v in self.distiller.student.state_dict().items()})
        return results

    monkeypatch.setattr(sfkd.train._Training, "_step", recorded)
    folder = quietly(recipe(tmp_path / "run", student=CONVNEXT, schedule={"ema_decay": 0.6}))
    average = trained[0]
    for number, state in enumerate(trained[1:]):
        decay = min(0.6, 1 - (number + 1) ** (-2 / 3)) if number else 0.0
        average = {k: decay * average[k] + (1 - decay) * state[k] for k in state}
    saved = weights(folder)
    for name, value in average.items():
        torch.testing.assert_close(saved[name.removeprefix("model.")], value, rtol=1e-4, atol=1e-5, msg=name)
    assert not torch.allclose(saved["head.fc.weight"], trained[-1]["model.head.fc.weight"], atol=1e-6)
    assert {"top1", "top1_without_ema"} <= folder.metrics()[-1].keys()


@pytest.mark.parametrize("switch", ["channels_last", "compile"])
def test_how_it_is_computed_changes_nothing(
    tmp_path: Path, recipe: RecipeOf, distilled: Any, switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compilation is checked with eager kernels behind the compiler; inductor's take minutes to build here."""
    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled(self, backend="aot_eager"))
    teacher = {k: v for k, v in distilled["teacher"].items() if k != "schedule"}
    options = {"student": CONVNEXT, "teacher": teacher, "method": {"name": "sfkd"}, "schedule": {"epochs": 1}}
    plain = quietly(recipe(tmp_path / "plain", **options))
    switched = quietly(recipe(tmp_path / "switched", engine={switch: True}, **options))
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(switched)[name], value, rtol=5e-3, atol=5e-4, msg=name)
    assert switched.metrics()[-1]["loss"] == pytest.approx(plain.metrics()[-1]["loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixed_precision": "fp16"}, "mixed_precision=fp16 cannot be had on this machine: fp16 .*requires a GPU"),
        ({"engine": {"sync_batchnorm": True}}, "sync_batchnorm works on CUDA only, this device is cpu: leave it off"),
    ],
)
def test_switches_that_this_machine_lacks(tmp_path: Path, recipe: RecipeOf, changes: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        quietly(recipe(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_every_column(tmp_path: Path, recipe: RecipeOf) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = quietly(recipe(tmp_path / "run", student=CONVNEXT, engine={"tensorboard": True}))
    (events,) = folder.path.rglob("events.out.tfevents*")
    written = EventAccumulator(str(events.parent))
    written.Reload()
    row = folder.metrics()[-1]
    assert set(written.Tags()["scalars"]) == row.keys() - {"epoch"}
    assert [e.step for e in written.Scalars("loss")] == [1, 2]
    assert written.Scalars("top1")[-1].value == pytest.approx(row["top1"], rel=1e-4)


# -- stopped inside an epoch -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [(1, 2), (1, 4), (2, 1), (2, 3)])
def test_stopped_at_any_step_it_ends_with_the_same_weights(
    tmp_path: Path, recipe: RecipeOf, distilled: Any, at: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drop path, augmentation, mixup, an average and running statistics are all there."""
    teacher = {k: v for k, v in distilled["teacher"].items() if k != "schedule"}
    schedule = {"mixup": 0.2, "ema_decay": 0.9, "accumulate": 2, "batch_size": 8}
    options = {"teacher": teacher, "method": {"name": "sfkd"}, "schedule": schedule, "data": {"augmentation": "crop"}}
    options |= {"engine": {"checkpoint_every": 1}}
    whole = quietly(recipe(tmp_path / "whole", **options))
    step = sfkd.train._Training._step

    def stopped(self: Any, epoch: int, number: int, batches: Any) -> Any:
        if (epoch, number) == at:
            raise KeyboardInterrupt
        return step(self, epoch, number, batches)

    with monkeypatch.context() as patch:
        patch.setattr(sfkd.train._Training, "_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            quietly(recipe(tmp_path / "parts", **options))
    checkpoint = RunFolder(tmp_path / "parts").load_checkpoint()
    assert checkpoint is not None
    assert (checkpoint.epoch, checkpoint.step) == (at[0] - 1, at[1] - 1)
    parts = quietly(recipe(tmp_path / "parts", **options))
    assert_same_weights(weights(whole), weights(parts))
    for ours, theirs in zip(whole.metrics(), parts.metrics(), strict=True):
        for name in ours.keys() - {"seconds", "images_per_second"}:
            assert theirs[name] == pytest.approx(ours[name], rel=1e-5), name


# -- sharded ---------------------------------------------------------------------------------------------------------------

SHARDED = """
import sys
import sfkd.train
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from sfkd.cli import main

def prepare(self, distiller, optimizer):
    mesh = init_device_mesh("cpu", (self.num_processes,))
    names = {id(p): name for name, p in distiller.named_parameters()}
    groups = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    for block in distiller.student.model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(distiller, mesh=mesh)
    parameters = dict(distiller.named_parameters())
    for group, members in zip(optimizer.param_groups, groups):
        group["params"] = [parameters[name] for name in members]
    return distiller, self.prepare_optimizer(optimizer)

Accelerator.prepare = prepare
if sys.argv.pop(1) == "stop":
    epoch = sfkd.train._Training._epoch

    def stopped(self, number, *args):
        if number == 2:
            raise KeyboardInterrupt
        return epoch(self, number, *args)

    sfkd.train._Training._epoch = stopped
sys.exit(main(sys.argv[1:]))
"""


def test_a_sharded_student_ends_like_a_whole_one(
    tmp_path: Path, recipe: RecipeOf, recipe_values: Any, distilled: Any
) -> None:
    """FSDP2 over two gloo processes, stopped after an epoch and resumed.

    Accelerate itself gives FSDP to GPUs only, so its `prepare` is replaced by the same call of torch.
    """
    teacher = {k: v for k, v in distilled["teacher"].items() if k != "schedule"}
    vit = {"name": "vit_tiny_patch16_224"}
    vit["kwargs"] = {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    # by error: a correlation across the batch is that of one process
    method = {"name": "sfkd", "options": {"comparison": "error"}}
    options = {"teacher": teacher, "student": vit, "method": method}
    script, file = tmp_path / "sharded.py", tmp_path / "recipe.yaml"
    script.write_text(SHARDED, encoding="utf-8")
    values = recipe_values(tmp_path / "sharded", **options, schedule={"batch_size": 8, "epochs": 2})
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {k: v for k, v in os.environ.items() if k != "ACCELERATE_USE_CPU"}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
    for mode in ("stop", "go on"):
        command = [*launcher, mode, "train", str(file), "--quiet"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert (done.returncode == 0) == (mode == "go on"), done.stderr[-3000:]
    assert "going on after epoch 1" in done.stdout
    sharded = RunFolder(tmp_path / "sharded")
    one = quietly(recipe(tmp_path / "one", **options, schedule={"batch_size": 16, "epochs": 2}))
    for ours, theirs in zip(one.metrics(), sharded.metrics(), strict=True):
        for name in ours.keys() - {"seconds", "images_per_second", "top1"}:
            assert theirs[name] == pytest.approx(ours[name], rel=1e-3), name
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(sharded)[name], value, rtol=0.02, atol=2e-3, msg=name)
    checkpoint = sharded.load_checkpoint()
    assert checkpoint is not None
    assert any(name.endswith("exp_avg_sq") for name in checkpoint.tensors)


@pytest.mark.long
def test_compiled_kernels_train_alike(tmp_path: Path, recipe: RecipeOf, distilled: Any) -> None:
    """Inductor's own kernels, which take a minute or two to build."""
    teacher = {k: v for k, v in distilled["teacher"].items() if k != "schedule"}
    options = {"teacher": teacher, "method": {"name": "sfkd"}, "schedule": {"epochs": 1}}
    vit = {"name": "vit_tiny_patch16_224"}
    vit["kwargs"] = {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    for student in (CONVNEXT, vit):
        name = student["name"]
        plain = quietly(recipe(tmp_path / name, student=student, **options))
        compiled = quietly(recipe(tmp_path / f"{name}-compiled", student=student, engine={"compile": True}, **options))
        assert compiled.metrics()[-1]["loss"] == pytest.approx(plain.metrics()[-1]["loss"], rel=1e-3)
