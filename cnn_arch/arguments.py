"""A command line whose mistakes are one line and exit code 2, as all errors of the user are."""

import argparse
from typing import NoReturn

from cnn_arch.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations; raises UserError where it would print the usage and leave."""

    def __init__(self, **options: object):
        super().__init__(**options, allow_abbrev=False)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise UserError(f'{message}: see {self.prog} --help')
