"""A command line whose mistakes are one line and exit code 2, as all errors of the user are."""

import argparse
import pathlib
from typing import Any, NoReturn

from cnn_arch.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations; raises UserError where it would print the usage and leave."""

    def __init__(self, **options: object):
        super().__init__(**options, allow_abbrev=False)  # type: ignore[arg-type]

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuses a flag without a value, too: `--workdir=$UNSET` would be the folder one is in."""
        for word in args or ():
            flag, equals, value = word.partition('=')
            if not word or (flag.startswith('--') and equals and not value):
                self.error(f'{word or "an argument"}: the value is empty')
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UserError(f'{message}: see {self.prog} --help')


def folders(flag: str, text: str) -> list[pathlib.Path]:
    """The folders of `DIR,DIR`; a comma in the name of one that is there belongs to it.

    Raises UserError for a name that is empty.
    """
    parts = text.split(',') if text else []
    found = []
    while parts:
        lengths = range(1, len(parts) + 1)
        there = (n for n in lengths if parts[0] and pathlib.Path(','.join(parts[:n])).is_dir())
        count = next(there, 1)
        name = ','.join(parts[:count])
        if not name:
            raise UserError(f'{flag}={text}: a name between the commas is empty')
        found.append(pathlib.Path(name))
        parts = parts[count:]
    return found
