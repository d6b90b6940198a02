"""`python -m keymill.ops.demo [--serve] [--data DIR]`."""

import sys

import typer

try:
    from keymill.ops.demo.run import demo
except ModuleNotFoundError as error:
    sys.exit(f"keymill demo: the package {error.name} is missing; install keymill with its demo extra (make demo does)")

if __name__ == "__main__":
    typer.run(demo)
