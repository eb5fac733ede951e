"""Other trackers than MLflow, off by default: `harness run FILE --tracker tensorboard`. To add one,
write a `Sink` and name it here."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from importlib.util import find_spec

from harness.common.errors import UserError, nearest, one_line
from harness.plan import Plan
from harness.store import Store
from harness.track.mirrors.mirror import Mirror

# Name, which is also that of the package and of the extra -> the module with its `sink`.
MIRRORS = {
    "tensorboard": "harness.track.mirrors.tensorboard_sink",
    "wandb": "harness.track.mirrors.wandb_sink",
}


def make_mirrors(names: Iterable[str], plan: Plan, store: Store) -> list[Mirror]:
    """
    Raises:
        UserError: no such tracker, its package is not installed, or it cannot be used.
    """
    mirrors = []
    for name in dict.fromkeys(names):
        if name not in MIRRORS:
            raise UserError(f"--tracker: unknown {name!r}{nearest(name, MIRRORS)}")
        if find_spec(name) is None:
            raise UserError(
                f"--tracker: {name} is not installed; `pip install 'refilled-harness[{name}]'`"
            )
        sink = importlib.import_module(MIRRORS[name]).sink(store.root)
        sink.check()
        mirrors.append(Mirror(plan, store, sink, name))
    return mirrors


def send(mirrors: Iterable[Mirror]) -> Iterator[str]:
    """Send each of them what it does not have yet; says what that was.

    Raises:
        UserError: it cannot be used.
    """
    for mirror in mirrors:
        try:
            yield f"{mirror.sync()} cells sent to {mirror.name}"
        except Exception as error:
            raise UserError(
                f"--tracker: cannot send to {mirror.name} at {mirror.address} ({one_line(error)}); "
                "nothing is lost, call it again"
            ) from None
        finally:
            mirror.close(finished=True)
