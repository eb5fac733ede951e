"""Signals that ask a process to stop: remembered, or delayed until a write is complete."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


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
        self._previous = {number: signal.signal(number, self._receive) for number in numbers}

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


def stop_on_sigterm() -> StopSignal:
    """Let SIGTERM ask this process to stop, and ignore Ctrl-C, which the parent handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return StopSignal(signal.SIGTERM)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Handle signals that arrive during the block after it, so that its writes are complete.

    This works in the main thread only; no other thread receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, lambda n, _: received.append(n)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
    for delayed in received:
        signal.raise_signal(delayed)
