"""Classes are known by their names: a number is only a name's place in the list of one network.

Names are compared letter by letter: 'Zero' is not 'zero'.
"""

import collections
import json
import pathlib
from collections.abc import Sequence

from cnn_arch.data.wording import count, few
from cnn_arch.errors import UserError, shown

Names = tuple[str, ...]


def require_same(found: Names, where: str, wanted: Names, whose: str) -> None:
    """Raises UserError that names the difference unless both lists are equal, order included.

    `where` is what has the classes `found`, `whose` what has the classes `wanted`.
    """
    if found == wanted:
        return
    require_known(found, where, wanted, whose)
    known = set(found)
    missing = [name for name in wanted if name not in known]
    if missing:
        raise UserError(f'{where} lacks {_of(missing)} that {whose} has')
    number = next(k for k, pair in enumerate(zip(found, wanted, strict=True)) if len(set(pair)) > 1)
    raise UserError(
        f'{where} has the classes of {whose} in another order: class {number} is '
        f'{shown(found[number])!r}, not {shown(wanted[number])!r}'
    )


def require_known(found: Names, where: str, wanted: Names, whose: str) -> None:
    """Raises UserError where `found` has names that `wanted` lacks; fewer are no error."""
    known = set(wanted)
    other = [name for name in found if name not in known]
    if not other:
        return
    alike = {_alike(name): name for name in wanted}
    near = alike.get(_alike(other[0]))
    raise UserError(
        f'{where} has {_of(other)} that {whose} has not; '
        + (f'there it is called {shown(near)!r}: names must be the same letter by letter'
           if near else f'its {count(len(wanted), "class", "classes")}: {few(wanted)}')
    )  # fmt: skip


def read(path: pathlib.Path) -> Names | None:
    """The names in a JSON file, in order; None where there is no such file. Raises UserError."""
    try:
        return checked(json.loads(path.read_bytes()), path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f'{path}: not readable: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: not valid JSON ({shown(str(error))})') from error


def checked(value: object, path: pathlib.Path) -> Names:
    """A list of different names out of a file. Raises UserError."""
    if not isinstance(value, list) or not value or not all(isinstance(n, str) for n in value):
        raise UserError(f'{path}: the class names are not a list of texts')
    name, times = collections.Counter(value).most_common(1)[0]
    if times > 1:
        raise UserError(f'{path}: class {shown(name)!r} stands there {times} times')
    return tuple(value)


def _of(names: Sequence[str]) -> str:
    plural = 'class' if len(names) == 1 else f'{len(names):,} classes'
    return f'{plural} {few([repr(shown(name)) for name in names])}'


def _alike(name: str) -> str:
    return name.strip().casefold()
