"""A function in a process of its own, forked from the warm server (harness.execute.local).

Whatever asks a GPU leaves a CUDA context in its process. In the command's own it would take memory
for as long as the command runs and, on a GPU in exclusive-process mode, keep every cell out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeVar

from harness.common.errors import UserError, one_line
from harness.execute.local import die_with_parent, start_process

P = ParamSpec("P")
Result = TypeVar("Result")


def in_child(function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
    """Return the result of a function that a child process calls; the child has ended by then.

    Function, arguments and result are pickled.

    Raises:
        UserError: The function has raised it.
        RuntimeError: It has raised another error, or the process was killed.
    """
    process, answers = start_process(_answer, partial(function, *args, **kwargs))
    try:
        answer = answers.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__}: ended with status {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        answers.close()
    if isinstance(answer, Exception):
        raise answer
    result: Result = answer
    return result


def _answer(connection: Connection, call: partial[object]) -> None:
    """Send the result of a call, or the error that it raises; this is the body of the child."""
    threading.Thread(target=die_with_parent, daemon=True).start()
    try:
        answer = call()
    except UserError as error:
        answer = error
    except Exception as error:
        answer = RuntimeError(f"{call.func.__name__}: {one_line(error)}")
    connection.send(answer)
