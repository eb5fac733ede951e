"""The one exception a user is meant to see: one line that names the field and the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Wrong input. The command line prints it as one line on stderr and exits with status 2."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """ ", did you mean X?" for the closest allowed name, else the list of allowed names."""
    names = sorted(allowed)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; allowed: {', '.join(names)}"
