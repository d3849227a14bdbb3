"""`sfkd analyze`: joins the command line of `sfkd` through the entry point group "sfkd.commands"."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any


def register(commands: Any) -> None:
    """Add the command to the subparsers of `sfkd`."""
    parser = commands.add_parser("analyze", help="what the student of a run took over, per layer and frequency band")
    parser.add_argument("run", help='run folder, or "demo" for the bundled one')
    parser.add_argument(
        "--out", type=Path, help="folder for analysis.npz, analysis.json and report.html; default RUN/analysis"
    )
    parser.add_argument("--images", type=int, help="how many images of the test set; default all of them")
    parser.add_argument("--root", help="where the data lies, if not where the recipe says")
    parser.add_argument("--device", help="such as cuda; default: cpu")
    parser.add_argument("--batch-size", type=int, default=256, help="images read at a time; changes no number")
    parser.add_argument("--ablation", action="store_true", help="also set each band to zero inside the models")
    parser.add_argument("--attribution", action="store_true", help="also attribute logits to bands (needs captum)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(function=_analyze)


def _analyze(args: argparse.Namespace) -> None:
    from torch.utils.data import DataLoader

    from sfkd.data import create_dataset
    from sfkd.loading import DEMO, load_run
    from sfkd_viz.analysis import STREAMING, analyze
    from sfkd_viz.report import write_report

    if args.images is not None and args.images < 1:
        raise ValueError(f"--images expects a number ≥ 1, got {args.images}.")
    if args.batch_size < 1:
        raise ValueError(f"--batch-size expects a number ≥ 1, got {args.batch_size}.")
    run = load_run(DEMO if args.run == "demo" else args.run)
    if run.teacher is None:
        raise ValueError(f"{args.run} was trained without a teacher: there is nothing to compare its student with.")
    data = dataclasses.replace(run.config.data, root=args.root) if args.root else run.config.data
    loader = DataLoader(create_dataset(data, "test"), batch_size=args.batch_size, num_workers=data.workers)
    asked = {"ablation": args.ablation, "attribution": args.attribution}
    streaming = [measure for measure in STREAMING if measure != "transfer" or run.baseline is not None]
    analysis = analyze(
        run.teacher,
        run.student,
        loader,
        run.baseline,
        measures=[*streaming, *(name for name, wanted in asked.items() if wanted)],  # type: ignore[list-item]
        max_images=args.images,
        device=args.device,
        progress=not args.quiet,
    )
    out = args.out or (Path("demo-analysis") if args.run == "demo" else run.path / "analysis")
    print(analysis.sentence())
    saved = analysis.save(out / "analysis")
    report = write_report(analysis, out / "report.html", title=f"What distillation moved: {run.path.name}")
    print(f"{saved.with_suffix('')}.npz and .json, {report}")
