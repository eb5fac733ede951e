"""Trackers besides MLflow, off by default: `harness run FILE --tracker tensorboard`.

Each module of this package is one tracker. The module's name is what users type, and its `SINK` is
a subclass of `harness.track.mirror.Sink`. Adding such a module adds the tracker; no other file
names it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from harness.common.errors import UserError, nearest, one_line

if TYPE_CHECKING:
    from harness.plan import Plan
    from harness.store import Store
    from harness.track.mirror import Mirror


def tracker_names() -> list[str]:
    """Return the names that `--tracker` accepts, without importing any tracker."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def make_mirrors(names: Iterable[str], plan: Plan, store: Store) -> list[Mirror]:
    """Return a checked mirror of the plan's cells for each tracker named, without duplicates.

    Raises:
        UserError: There is no such tracker, or it cannot be used.
    """
    from harness.track.mirror import Mirror

    mirrors = []
    for name in dict.fromkeys(names):
        if name not in tracker_names():
            raise UserError(f"--tracker: unknown {name!r}{nearest(name, tracker_names())}")
        sink = importlib.import_module(f"{__name__}.{name}").SINK(store.root)
        sink.check()
        mirrors.append(Mirror(plan, store, sink, name))
    return mirrors


def send(mirrors: Iterable[Mirror]) -> Iterator[str]:
    """Send each mirror what it lacks, and yield one line per mirror that says how much it was.

    Raises:
        UserError: A tracker cannot be used.
    """
    for mirror in mirrors:
        try:
            yield f"{mirror.sync()} cells sent to {mirror.name}"
        except Exception as error:
            raise UserError(
                f"--tracker: cannot send to {mirror.name} at {mirror.address} ({one_line(error)}); "
                "run the command again to send the rest"
            ) from None
        finally:
            mirror.close(finished=True)
