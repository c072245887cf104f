"""Names that come from files, as messages and results show them."""

import os
from collections.abc import Sequence

LONGEST = 200  # characters of a name in a message
SHOWN = 3  # names that a message lists


def escaped(name: str) -> str:
    r"""A name without control characters; bytes that are no UTF-8 and these appear as `\xe9`."""
    if name.isprintable():
        return name
    text = os.fsencode(name).decode('utf-8', 'backslashreplace')
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in text)


def shown(name: str) -> str:
    """A name for a message: escaped, and cut where it is long."""
    name = escaped(name[: 2 * LONGEST])
    return name if len(name) <= LONGEST else f'{name[: LONGEST - 3]}...'


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f' and {len(names) - SHOWN:,} more' if len(names) > SHOWN else ''
    return ', '.join(shown(name) for name in names[:SHOWN]) + more


def count(number: int, what: str, several: str = '') -> str:
    """'1 file', '1,200 files'; `several` where the plural is not made with an s."""
    return f'{number:,} {what if number == 1 else several or what + "s"}'
