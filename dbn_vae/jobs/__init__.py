"""The jobs of the command line, one file each: `add_arguments(parser)` and `run(arguments)` to an exit code."""
