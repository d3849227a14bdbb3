"""`sfkd train | evaluate | export | list`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

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
        args.function(args)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        if args.debug:
            raise
        print(f"sfkd: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sfkd", description="Spatial-frequency knowledge distillation.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a recipe; goes on where it was stopped")
    train.add_argument("config", help="YAML recipe, see configs/")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="such as schedule.epochs=3 or out=runs/mine")
    train.add_argument("--quiet", action="store_true", help="no progress bar")
    train.set_defaults(function=_train)

    evaluate = commands.add_parser("evaluate", help="top-1 of every model of a run on its test set")
    evaluate.add_argument("run", help="run folder")
    evaluate.add_argument("--root", help="where the data lies, if not where the recipe says")
    evaluate.add_argument("--device", default="cpu")
    evaluate.set_defaults(function=_evaluate)

    export = commands.add_parser("export", help="copy a finished run without its checkpoints")
    export.add_argument("run", help="run folder")
    export.add_argument("destination")
    export.set_defaults(function=_export)

    listing = commands.add_parser("list", help="distillers and their options")
    listing.set_defaults(function=_list)
    return parser


def _train(args: argparse.Namespace) -> None:
    from sfkd.train import train

    train(load_recipe(args.config, args.overrides), progress=not args.quiet)


def _evaluate(args: argparse.Namespace) -> None:
    import dataclasses

    from torch.utils.data import DataLoader

    from sfkd.data import create_dataset
    from sfkd.loading import load_run
    from sfkd.train import count_hits

    run = load_run(args.run)
    data = dataclasses.replace(run.config.data, root=args.root) if args.root else run.config.data
    test_set = create_dataset(data, "test")
    loader = DataLoader(test_set, batch_size=run.config.schedule.batch_size, num_workers=data.workers)
    models = {"teacher": run.teacher, "student alone": run.baseline, "student": run.student}
    for role, model in models.items():
        if model is not None:
            hits = count_hits(model.to(args.device), loader, args.device).item()
            print(f"{role}: top-1 {100 * hits / len(test_set):.2f} % ({hits:.0f} of {len(test_set)})")  # type: ignore


def _export(args: argparse.Namespace) -> None:
    from sfkd.runs import RunFolder

    print(f"exported to {RunFolder(args.run).export(args.destination).path}")


def _list(_: argparse.Namespace) -> None:
    for name in list_distillers():
        options = ", ".join(f"{option}={default!r}" for option, default in options_of(name).items())
        print(f"{name}: {options}")


if __name__ == "__main__":
    sys.exit(main())
