"""URLs without what must not be shown: passwords, and keys that are part of a query."""

import re

_PASSWORD = re.compile(
    r"""(?P<before>[a-z][a-z0-9+.-]*://[^\s:/@'"<>]*:)  # scheme and name
        (?!\d+(?:[/?\s'"<>]|$))                         # a port, and so no password
        [^\s'"<>]+@                                     # up to the last @, for a password may hold others
    """,
    re.VERBOSE | re.IGNORECASE,
)
_KEYS = re.compile(
    r"""(?P<before>[?&](?:[a-z-]*(?:signature|credential|security-token|token|secret|password|access_?key[a-z_]*)|sig)=)
        [^&\s'"<>]+
    """,
    re.VERBOSE | re.IGNORECASE,
)
_HIDDEN = "***"


def redacted(text: str) -> str:
    """Return a text in which no URL holds a password or a key."""
    return _KEYS.sub(rf"\g<before>{_HIDDEN}", _PASSWORD.sub(rf"\g<before>{_HIDDEN}@", text))
