"""Signals that ask a process to stop: remembered, delayed until a write is complete, or ignored.

They are Ctrl-C (SIGINT), SIGTERM, SIGHUP of a terminal that closes, and SIGUSR1, with which Slurm
announces the end of a job. Only the main thread of a process may set what they do, so commands that
run in another thread leave them alone.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

_REQUESTS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_TO_ALL = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)  # that all processes of a command get


def stop_requests() -> tuple[signal.Signals, ...]:
    """Return the signals besides Ctrl-C that stop this process: `nohup` has it ignore SIGHUP."""
    return tuple(n for n in _REQUESTS if signal.getsignal(n) is not signal.SIG_IGN)


def is_settable() -> bool:
    """Return whether this thread may set what signals do."""
    return threading.current_thread() is threading.main_thread()


class StopSignal:
    """Signals that ask this process to stop; called, it tells whether one has arrived.

    Used as a context manager, it restores the previous handlers at the end. With `interrupts`, the
    first signal raises KeyboardInterrupt.

    Attributes:
        n: The number of signals that have arrived.
    """

    def __init__(self, *numbers: int, interrupts: bool = False) -> None:
        self.n = 0
        self._interrupts = interrupts
        self._previous = {
            number: signal.signal(number, self._receive) for number in numbers if is_settable()
        }

    def _receive(self, *_: object) -> None:
        self.n += 1
        if self._interrupts and self.n == 1:
            raise KeyboardInterrupt

    def __call__(self) -> bool:
        """Return whether a signal has come."""
        return self.n > 0

    def __enter__(self) -> StopSignal:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def stop_on_request() -> StopSignal:
    """Let signals ask this process to stop, but ignore Ctrl-C, which the parent handles."""
    if is_settable():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return StopSignal(*stop_requests())


def leave_to_parent() -> None:
    """Ignore what a terminal or Slurm sends to all processes of a command, from now on."""
    for number in _TO_ALL:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _TO_ALL)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Let a process that is started in the block receive no such signal before it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Handle signals that arrive during the block after it, so that its writes are complete.

    No other thread receives signals.
    """
    if not is_settable():
        yield
        return
    received: list[int] = []
    numbers = (signal.SIGINT, *stop_requests())
    previous = [signal.signal(number, lambda n, _: received.append(n)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
    for delayed in received:
        signal.raise_signal(delayed)
