"""The command line: `dbn-vae JOB`.  Each job says its own arguments and runs itself."""

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job; returns its exit status, 130 after Ctrl-C, 2 for wrong arguments or data."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("\nInterrupted; what was written so far is whole.", file=sys.stderr)
        return 130
    except (ValueError, FileNotFoundError) as error:
        print(f"dbn-vae: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    from dbn_vae import __version__

    top = argparse.ArgumentParser(prog="dbn-vae", description="Sequences with hidden state.")
    top.add_argument("--version", action="version", version=f"dbn-vae {__version__}")
    jobs = top.add_subparsers(metavar="JOB", required=True)

    from dbn_vae.jobs import demo, doctor, static_vae

    for name, job, line in (
        ("demo", demo, "fit, compare, decode and report a real series that ships with matplotlib"),
        ("vae", static_vae, "train the static auto-encoder on digits or MNIST"),
        ("doctor", doctor, "say what is installed and which inference backend runs"),
    ):
        sub = jobs.add_parser(name, help=line, description=line)
        job.add_arguments(sub)
        sub.set_defaults(run=job.run)
    return top
