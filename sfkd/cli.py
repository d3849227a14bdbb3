"""`sfkd train | evaluate | export | benchmark | list`; `analyze` joins from above."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

from sfkd.config import load_recipe
from sfkd.distillers import distiller_options as options_of
from sfkd.distillers import list_distillers


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; a mistake of the caller's is one line on stderr and exit status 2."""
    parser = _parser()
    args, rest = parser.parse_known_args(arguments)
    if rest and (any(text.startswith("-") for text in rest) or not hasattr(args, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse leaves overrides that follow an option
        args.overrides += rest
    try:
        return args.function(args) or 0
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        if args.debug:
            raise
        print(f"sfkd: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sfkd", description="Spatial-frequency knowledge distillation.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a recipe; goes on where it was stopped")
    train.add_argument("config", help="YAML recipe, see configs/")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="such as schedule.epochs=3 or out=runs/mine")
    train.add_argument("--quiet", action="store_true", help="no progress bar")
    train.add_argument("--dry-run", action="store_true", help="build it, try a step, and say what a run takes")
    train.add_argument("--profile", action="store_true", help="time the parts of a few steps, write a trace, and end")
    train.set_defaults(function=_train)

    evaluate = commands.add_parser("evaluate", help="top-1 of every model of a run on its test set")
    evaluate.add_argument("run", help="run folder")
    evaluate.add_argument("--root", help="where the data lies, if not where the recipe says")
    evaluate.add_argument("--device", default="cpu")
    evaluate.set_defaults(function=_evaluate)

    export = commands.add_parser("export", help="copy a finished run without its checkpoints, with its teacher")
    export.add_argument("run", help="run folder")
    export.add_argument("destination")
    export.set_defaults(function=_export)

    benchmark = commands.add_parser("benchmark", help="run studies and fill their tables; goes on where it was stopped")
    benchmark.add_argument("studies", nargs="+", help="YAML files, see configs/benchmark/")
    benchmark.add_argument("--jobs", type=int, help="runs at a time, one thread each (default: one a core)")
    benchmark.add_argument("--quiet", action="store_true", help="no progress bar")
    benchmark.set_defaults(function=_benchmark)

    listing = commands.add_parser("list", help="distillers and their options")
    listing.set_defaults(function=_list)
    for command in entry_points(group="sfkd.commands"):  # what stands above this package joins here
        command.load()(commands)
    return parser


def _train(args: argparse.Namespace) -> int:
    recipe = load_recipe(args.config, args.overrides)
    if args.dry_run:
        from sfkd.dry_run import dry_run

        dry_run(recipe)
        return 0
    if args.profile:
        from sfkd.profiling import profile_training

        profile_training(recipe)
        return 0
    from sfkd.train import TrainingStopped, train

    with _signals() as came:
        try:
            train(recipe, progress=not args.quiet, stop=lambda: bool(came))
        except TrainingStopped as stopped:
            print(f"sfkd: {stopped} The same command goes on from there.", file=sys.stderr)
            return 128 + came[0]
    return 0


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that asked for a stop, SIGTERM and Ctrl+C; a second Ctrl+C does not wait for the step to end."""
    came: list[int] = []

    def note(number: int, _: Any) -> None:
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _evaluate(args: argparse.Namespace) -> None:
    import dataclasses

    import torch

    from sfkd.batches import EvaluationBatches
    from sfkd.loading import load_run
    from sfkd.train import count_hits

    run, device = load_run(args.run), torch.device(args.device)
    data = dataclasses.replace(run.config.data, root=args.root) if args.root else run.config.data
    tests = EvaluationBatches(dataclasses.replace(run.config, data=data), device=device)
    models = {"teacher": run.teacher, "student alone": run.baseline, "student": run.student}
    for role, model in models.items():
        if model is not None:
            hits, images = count_hits(model.to(device), tests, device).tolist()
            print(f"{role}: top-1 {100 * hits / images:.2f} % ({hits:.0f} of {images:.0f})")


def _export(args: argparse.Namespace) -> None:
    from sfkd.loading import export_run

    print(f"exported to {export_run(args.run, args.destination)}")


def _benchmark(args: argparse.Namespace) -> None:
    from sfkd.benchmark import benchmark

    for table in benchmark(args.studies, jobs=args.jobs, progress=not args.quiet):
        print(f"complete: {table}")


def _list(_: argparse.Namespace) -> None:
    for name in list_distillers():
        options = ", ".join(f"{option}={default!r}" for option, default in options_of(name).items())
        print(f"{name}: {options}")


if __name__ == "__main__":
    sys.exit(main())
