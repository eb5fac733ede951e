"""Commands about this machine, and commands that write files to start with."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from harness.cli.options import RUNS, Host, StoreOption

app = typer.Typer()


@app.command()
def doctor(store: StoreOption = RUNS) -> None:
    """Report what this machine has, and what would prevent a run here."""
    from harness.run.doctor import print_findings

    raise typer.Exit(print_findings(store))


@app.command()
def studies(
    name: Annotated[Optional[str], typer.Argument(help="the tuning; by default the newest")] = None,
    store: StoreOption = RUNS,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8080,
    host: Host = "127.0.0.1",
) -> None:
    """Open a tuning's studies in Optuna's dashboard."""
    from harness.tune.dashboard import serve

    raise typer.Exit(serve(store, name, host, port))


def complete_network(incomplete: str) -> list[str]:
    """Return the networks of `init` that begin so, for the completion of shells."""
    from harness.experiment.example import NETWORKS

    return [name for name in NETWORKS if name.startswith(incomplete)]


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="the experiment: experiments/NAME.yaml")],
    network: Annotated[
        str,
        typer.Option(
            help="of teacher and students, as torchvision", autocompletion=complete_network
        ),
    ] = "wide_resnet",
) -> None:
    """Write a commented experiment file to start with."""
    from harness.common.names import command_name
    from harness.experiment.example import write_example
    from harness.experiment.file import EXPERIMENTS

    path = write_example(name, EXPERIMENTS, network)
    print(f"written: {path}\nnext: {command_name()} plan {path}; {command_name()} run {path}")


@app.command()
def schema() -> None:
    """Print the JSON schema of experiment files, for editors."""
    from harness.experiment.schema import schema_text

    print(schema_text())
