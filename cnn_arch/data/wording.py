"""Names and numbers of things, as messages say them."""

from collections.abc import Sequence

from cnn_arch.errors import shown

SHOWN = 3  # names that a message lists


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f' and {len(names) - SHOWN:,} more' if len(names) > SHOWN else ''
    return ', '.join(shown(name) for name in names[:SHOWN]) + more


def count(number: int, what: str, several: str = '') -> str:
    """'1 file', '1,200 files'; `several` where the plural is not made with an s."""
    return f'{number:,} {what if number == 1 else several or what + "s"}'
