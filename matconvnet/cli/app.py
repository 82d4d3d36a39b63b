"""The program `matconvnet`: its commands, and how it reports errors."""

import warnings
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from matconvnet._version import __version__
from matconvnet.cli.check import check
from matconvnet.cli.convert import convert
from matconvnet.cli.data import data_app
from matconvnet.cli.evaluate import evaluate
from matconvnet.cli.parity import parity
from matconvnet.cli.predict import predict
from matconvnet.cli.profile import profile
from matconvnet.cli.runs import runs
from matconvnet.cli.show import show
from matconvnet.cli.train import train

USER_ERRORS = (ValueError, TypeError, KeyError, OSError, ArithmeticError, ImportError, MemoryError)
USAGE_STATUS = 2


class Commands(TyperGroup):
    """Commands whose errors become one line, unless `--debug` asks for the traceback."""

    def invoke(self, ctx):
        """Run the command."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = report_warning
                return super().invoke(ctx)
        except USER_ERRORS as error:
            if ctx.params["debug"]:
                raise
            report(error)
            raise typer.Exit(USAGE_STATUS) from None


def report(error: Exception) -> None:
    """Print an error, and the notes that tell where it happened, to the standard error."""
    # str(KeyError("k")) is quoted, str(OSError) names the file: only the first is unwrapped.
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    console = Console(stderr=True)
    console.print(Text.assemble(("error: ", "bold red"), (str(message), "red")), soft_wrap=True)
    for note in getattr(error, "__notes__", ()):
        console.print(Text(f"  {note}", "red"), soft_wrap=True)


def report_warning(message: Warning | str, *_: Any) -> None:
    """Print a warning to the standard error, in the place of `warnings.showwarning`."""
    console = Console(stderr=True)
    console.print(Text.assemble(("warning: ", "bold yellow"), str(message)), soft_wrap=True)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (train, evaluate, predict, show, runs, profile, convert, parity, check):
    app.command()(command)
app.add_typer(data_app, name="data")


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"matconvnet {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Convolutional networks made of blocks whose backward pass you can see.

    Start with `matconvnet train lenet`: it learns to read digits in about a minute.
    """


def main() -> None:
    """Run the command that the arguments of the process name."""
    app(prog_name="matconvnet")
