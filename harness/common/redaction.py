"""Removal of secrets from messages and files: those of URLs, headers and the environment."""

from __future__ import annotations

import contextlib
import os
import re
from urllib.parse import unquote, unquote_plus, urlsplit

HIDDEN = "***"
# user:password@host; a password may hold @ and /, so it ends at the last @ of the word.
_USER = re.compile(r"""(?P<scheme>\w[\w+.-]*:/{0,3})(?P<user>[^\s/:@'"]*):[^\s'"]*@""")
_BARE_USER = re.compile(r"""(?<![\w/:@.])[^\s/:@'"()=]+:(?!/)[^\s'"]+@(?=[\w.\[-])""")
_TOKEN_AS_USER = re.compile(r"""\b(?P<scheme>(?:git\+)?https?://)[^\s/:@'"]+@""")
_NAMES = (
    r"[\w-]*(?:passw(?:or)?d|pwd|passphrase|token|secret|api_?key|access_?key|signature|sig|auth)"
)
_SETTING = re.compile(rf"""(?i)\b(?P<name>{_NAMES})=(?:'[^']*'|"[^"]*"|[^\s&;'",)]+)""")
_HEADER = re.compile(r"""(?i)\b(?P<kind>authorization:\s*\w+|bearer)\s+[^\s'"]{6,}""")

# Environment variables that hold URLs with passwords, and ones whose values are secrets. A driver
# may repeat a password decoded, without the URL around it.
_URLS = re.compile(r"(?i)_(uri|url|storage|proxy)$")
_VALUES = re.compile(r"(?i)(password|passwd|token|secret|api_?key|access_?key)$")
# Secrets that are searched for anywhere; shorter or plainer ones would hide ordinary words.
_SHORTEST, _PLAIN = 4, re.compile(r"(?i)true|false|none|auto|\d{1,5}")
_given: set[str] = set()


def without_password(url: str) -> str:
    """Return a URL without its secrets, for messages and files, whatever the environment holds."""
    text = _USER.sub(lambda m: f"{m['scheme']}{m['user']}:{HIDDEN}@", url)
    text = _TOKEN_AS_USER.sub(lambda m: f"{m['scheme']}{HIDDEN}@", text)
    text = _BARE_USER.sub(lambda m: f"{m[0].partition(':')[0]}:{HIDDEN}@", text)
    return _SETTING.sub(lambda m: f"{m['name']}={HIDDEN}", text)


def remember_password(url: str) -> str:
    """Return the URL, and hide the password in it from all later messages."""
    _given.update(_passwords(url))
    return url


def redacted(text: str) -> str:
    """Return text for the screen without secrets, e.g. a driver's error that repeats its URL."""
    known = set(_given)
    for name, value in os.environ.items():
        if _URLS.search(name):
            known |= _passwords(value)
        elif _VALUES.search(name):
            known.add(value)
    text = _HEADER.sub(lambda m: f"{m['kind']} {HIDDEN}", without_password(text))
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) >= _SHORTEST and not _PLAIN.fullmatch(secret):
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    return text


def _passwords(url: str) -> set[str]:
    """Return the password of a URL, as written and decoded.

    Malformed URLs are split by hand, as those are the ones that errors repeat.
    """
    user, at, _ = url.rpartition("@")
    written = user.rpartition("://")[2].partition(":")[2] if at else ""
    with contextlib.suppress(ValueError):
        written = urlsplit(url).password or written
    return {written, unquote(written), unquote_plus(written)} - {"", HIDDEN}
