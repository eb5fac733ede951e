"""Waiting for a server: since when, and for how long at most."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

ANSWER_SECONDS = 120.0  # for a complete answer


class Asking:
    """The silence of a server, as its connection knows it.

    Attributes:
        asked: Since when something waits for the server, as time.monotonic(); None while nothing
            does, as during our own work.
    """

    asked: float | None = None

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Wait for the server, or for others who use it, during the block."""
        before, self.asked = self.asked, time.monotonic()
        try:
            yield
        finally:
            self.asked = before


class BoundedClient:
    """A client whose calls end: a server that sends a byte now and then never lets one time out.

    Transfers of artifacts take as long as they need.
    """

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not callable(method) or "artifact" in name:
            return method
        return lambda *arguments, **keywords: self._call(lambda: method(*arguments, **keywords))

    def _call(self, call: Callable[[], Any]) -> Any:
        answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def work() -> None:
            try:
                answers.put((call(), None))
            except BaseException as error:
                answers.put((None, error))

        threading.Thread(target=work, daemon=True).start()
        try:
            value, error = answers.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise TimeoutError(
                f"no complete answer from {self._address} in {ANSWER_SECONDS:.0f} s"
            ) from None
        if error is not None:
            raise error
        return value
