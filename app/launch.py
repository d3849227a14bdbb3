"""Start the app: `python app/launch.py [--run RUN] [--runs-root DIR] [--host HOST] [--port PORT] [--device DEVICE]`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from memory import share_memory_of_threads

_RECIPES = Path(__file__).resolve().parent.parent / "configs"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command-line options."""
    parser = argparse.ArgumentParser(description="Inspect what distillation moves between two networks.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--run", type=Path, help="run folder to open (default: the bundled pair)")
    parser.add_argument("--runs-root", type=Path, default=Path("runs"), help="folder whose runs the page offers")
    parser.add_argument("--recipes", type=Path, default=_RECIPES, help="folder of the recipes that the page trains")
    parser.add_argument("--device", default="cpu", help="where features are computed: cpu, cuda, mps")
    parser.add_argument("--share", action="store_true", help="also ask Gradio for a public address (off unless given)")
    parser.add_argument(
        "--auth",
        type=Path,
        help="file of user:password lines; needed with --share and for a --host beyond this machine",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    return parser.parse_args(arguments)


def users(args: argparse.Namespace) -> list[tuple[str, str]] | None:
    """Who may enter; None: whoever reaches this machine's own address.

    Raises:
        ValueError: a public address without a password, or a file that holds none.
    """
    if args.auth is None:
        if args.share or args.host not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError(
                "others could reach this page, start trainings and read every run under the runs folder: "
                "name a file of user:password lines with --auth FILE."
            )
        return None
    try:
        lines = [line.strip() for line in args.auth.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--auth {args.auth} cannot be read: {error}") from error
    pairs = [tuple(line.split(":", 1)) for line in lines]
    if not pairs or not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise ValueError(f"--auth expects lines of user:password, {args.auth} has others or none.")
    return pairs  # type: ignore[return-value]


def main(arguments: list[str] | None = None) -> int:
    """Open the pair first, so that a bad path is one line here and not a broken page."""
    args = parse(arguments)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    share_memory_of_threads()
    from messages import UserError
    from microscope import Microscope
    from runs_root import RunsRoot

    try:
        allowed = users(args)
        microscope = Microscope(RunsRoot(args.runs_root, args.run), args.recipes, args.device)
    except (UserError, ValueError) as error:
        print(f"sfkd app: {error}", file=sys.stderr)
        return 2
    from serving import serve

    try:
        page = serve(microscope, host=args.host, port=args.port, share=args.share, users=allowed)
    except OSError as error:
        print(f"sfkd app: {args.host}:{args.port or 'any port'} cannot be opened: {error}", file=sys.stderr)
        return 2
    address = str(page.share_url or page.local_url)
    print(f"SFKD microscope: {address}  (stop with Ctrl+C)", flush=True)
    if not args.no_browser:
        import webbrowser

        webbrowser.open(address)
    page.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
