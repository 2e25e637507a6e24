"""The command line: `dbn-vae JOB`.  Each job says its own arguments and runs itself."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from dbn_vae import __version__

JOBS = {
    "demo": ("dbn_vae.jobs.demo", "fit, compare, decode and report a real series that ships with matplotlib"),
    "vae": ("dbn_vae.jobs.static_vae", "train the static auto-encoder on digits or MNIST"),
    "doctor": ("dbn_vae.jobs.doctor", "say what is installed and which inference backend runs"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job; returns its exit status, 130 after Ctrl-C, 2 for wrong arguments or data."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = parser(given).parse_args(given)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("\nInterrupted; what was written so far is whole.", file=sys.stderr)
        return 130
    except (ValueError, FileNotFoundError) as error:
        print(f"dbn-vae: {error}", file=sys.stderr)
        return 2


def parser(given: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; only the job that was asked for is imported, since torch takes seconds."""
    top = argparse.ArgumentParser(prog="dbn-vae", description="Sequences with hidden state.")
    top.add_argument("--version", action="version", version=f"dbn-vae {__version__}")
    jobs = top.add_subparsers(metavar="JOB", required=True)
    for name, (home, line) in JOBS.items():
        sub = jobs.add_parser(name, help=line, description=line)
        if name in given:
            job = import_module(home)
            job.add_arguments(sub)
            sub.set_defaults(run=job.run)
    return top
