"""Start the app: `python app/launch.py [--run RUN] [--runs-root DIR] [--host HOST] [--port PORT] [--device DEVICE]`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command-line options."""
    parser = argparse.ArgumentParser(description="Inspect what distillation moves between two networks.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--run", type=Path, help="run folder to open (default: the bundled pair)")
    parser.add_argument("--runs-root", type=Path, default=Path("runs"), help="folder whose runs the page offers")
    parser.add_argument("--device", default="cpu", help="where features are computed: cpu, cuda, mps")
    parser.add_argument("--share", action="store_true", help="also ask Gradio for a public address (off unless given)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Open the pair first, so that a bad path is one line here and not a broken page."""
    args = parse(arguments)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from callbacks import Microscope
    from messages import UserError

    try:
        microscope = Microscope(run=args.run, runs_root=args.runs_root, device=args.device)
    except UserError as error:
        print(f"sfkd app: {error}", file=sys.stderr)
        return 2
    from ui import LAUNCH_OPTIONS, build

    page = build(microscope).queue(api_open=False)
    try:
        page.launch(
            server_name=args.host,
            server_port=args.port,
            share=args.share,
            inbrowser=not args.no_browser,
            prevent_thread_lock=True,
            **LAUNCH_OPTIONS,
        )
    except OSError as error:
        print(f"sfkd app: {args.host}:{args.port or 'any port'} cannot be opened: {error}", file=sys.stderr)
        return 2
    print(f"SFKD microscope: {page.share_url or page.local_url}  (stop with Ctrl+C)", flush=True)
    page.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
