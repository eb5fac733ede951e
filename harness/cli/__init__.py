"""The `harness` command. Each command checks its input, then calls one function elsewhere.

- `training`: commands that train or inspect trainings; `train_command`: `harness train`.
- `results`: commands that show results; `models`: commands that use trained networks; `project`:
  `init`, `doctor` and others about this machine.
- `options`: options that several commands share; `spelling`: other spellings of options; `files`:
  the files that commands take.

Only these files and `harness.api` may import `harness.analysis`, inside functions: tables are a
view of the results, and training must not need them. Heavy imports stay inside the commands, so
that a call with nothing to do answers at once.
"""

from __future__ import annotations

import gc
import signal
import sys
import traceback
from typing import Annotated

import typer

from harness.cli import models, project, results, training
from harness.cli.spelling import published_spelling, take_data_root
from harness.common.errors import UserError
from harness.common.exit_status import FAILED, INTERRUPTED, OK, WRONG_USE
from harness.common.names import as_called, printable
from harness.common.os_errors import describe_os_error, exit_status_of
from harness.common.output import keep_output_open
from harness.common.redaction import redacted
from harness.data import using_data_root

app = typer.Typer(
    name="harness",
    epilog="Every command takes --data-root DIR (data sets; default ./data) and --debug.",
    add_completion=True,
    no_args_is_help=False,
)


def _print_version(is_given: bool) -> None:
    if is_given:
        from harness.common.provenance import version_text

        print(version_text())
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="print it and exit"),
    ] = False,
) -> None:
    """Reproduce the tables of a knowledge-distillation paper (ReFilled, CVPR 2020)."""


app.add_typer(training.app)
app.add_typer(results.app)
app.add_typer(models.app)
app.add_typer(project.app)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Those of the command line; by default this process's.

    Returns:
        The exit status. An error is one line on stderr and status 2, or 1 if the machine refused
        something, such as room on a disk; `--debug` anywhere adds the traceback.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if arguments is None:
        keep_output_open()
        # Plans and tables are made of objects that stay; looking for garbage among those of 10,000
        # cells would take a third of the time of a command.
        gc.set_threshold(100_000, 50, 50)
    try:
        return _main(given, debug)
    finally:
        if arguments is None:  # only the interpreter's own shutdown follows
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _call(given: list[str]) -> int:
    """Run the command, and raise what it raises.

    Typer turns KeyboardInterrupt into its own Abort, and EOFError as well, which is the end of a
    broken file here: no command asks questions.
    """
    try:
        return app(given, prog_name="harness", standalone_mode=False) or OK
    except typer.Abort as abort:
        raise abort.__cause__ or KeyboardInterrupt from None


def _main(given: list[str], debug: bool) -> int:
    try:
        given, data_root = take_data_root(given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USE
    given = published_spelling([a for a in given if a != "--debug"])
    cause: Exception
    status = WRONG_USE
    try:
        with using_data_root(data_root):
            return _call(given or ["--help"])
    except UserError as error:
        cause, message, status = error, str(error), error.status
    except typer.exceptions.TyperException as error:
        cause, message = error, " ".join(error.format_message().split())
        context = getattr(error, "ctx", None)
        message += f" (see `{context.command_path} --help`)" if context else ""
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return OK
    except OSError as error:
        cause, message, status = error, describe_os_error(error), exit_status_of(error)
    except Exception as error:
        if not debug:
            text = " ".join(redacted(str(error)).split())[:300]
            print(
                f"error: {type(error).__name__}: {text} (this is a bug; --debug shows where)",
                file=sys.stderr,
            )
            return FAILED
        print(redacted(traceback.format_exc()), file=sys.stderr)
        return FAILED
    if debug:
        print(redacted("".join(traceback.format_exception(cause))), file=sys.stderr)
    print(f"error: {printable(redacted(as_called(message)))}", file=sys.stderr)
    return status
