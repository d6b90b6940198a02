"""`make drill`."""

import typer

from keymill.ops.drill.run import drill

if __name__ == "__main__":
    typer.run(drill)
