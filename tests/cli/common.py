"""Running commands as a shell would."""

from typer.testing import CliRunner

from matconvnet.cli.app import app


def run(*args):
    runner = CliRunner(env={"COLUMNS": "100"})  # of the terminal, whatever this one has
    return runner.invoke(app, [str(arg) for arg in args])


def failure(*args):
    """What a command that fails by the user's fault prints: one line, and status 2."""
    result = run(*args)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert result.stderr.startswith("error: ")
    return result.stderr
