"""No secrets in what is printed or kept: of URLs, headers, settings and the environment."""

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

# Of the environment: URLs whose passwords, and variables whose values, are secrets. A driver may
# repeat them without the URL around them, decoded.
_URLS = re.compile(r"(?i)_(uri|url|storage|proxy)$")
_VALUES = re.compile(r"(?i)(password|passwd|token|secret|api_?key|access_?key)$")
# Of a value that is looked for anywhere: others would hide common words and numbers.
_SHORTEST, _PLAIN = 4, re.compile(r"(?i)true|false|none|auto|\d{1,5}")
_given: set[str] = set()


def without_password(url: str) -> str:
    """A URL for messages and files: the same whatever the environment holds."""
    text = _USER.sub(lambda m: f"{m['scheme']}{m['user']}:{HIDDEN}@", url)
    text = _TOKEN_AS_USER.sub(lambda m: f"{m['scheme']}{HIDDEN}@", text)
    text = _BARE_USER.sub(lambda m: f"{m[0].partition(':')[0]}:{HIDDEN}@", text)
    return _SETTING.sub(lambda m: f"{m['name']}={HIDDEN}", text)


def remember(url: str) -> str:
    """The same URL. Its password, given on the command line, appears in no message from now on."""
    _given.update(_passwords(url))
    return url


def redacted(text: str) -> str:
    """Any text for the screen, as an error of a driver that repeats its URL."""
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
    """As written and decoded. By hand where it is no URL: that is when an error repeats it."""
    user, at, _ = url.rpartition("@")
    written = user.rpartition("://")[2].partition(":")[2] if at else ""
    with contextlib.suppress(ValueError):
        written = urlsplit(url).password or written
    return {written, unquote(written), unquote_plus(written)} - {"", HIDDEN}
