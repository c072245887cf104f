"""Each row of the table: one line with the file's name, exit code 2, nothing written, no child."""

import pathlib
import time

import psutil
import pytest

from cnn_arch import commands
from cnn_arch.data import inspect, sources
from cnn_arch.data.preparation import ilsvrc
from cnn_arch.errors import USER_ERROR
from cnn_arch.weights import __main__ as weights_command
from configs import base
from tests import samples
from tests.bad_inputs.rows import ROWS, Row

SECONDS = 60  # for a row, on a machine that does much else


def put(row: Row, folder: pathlib.Path) -> pathlib.Path:
    """What the row is about."""
    if not isinstance(row.make, bytes):
        return row.make(folder)
    name = {'archive': 'ILSVRC2012_img_train.tar', 'picture': 'one/b'}.get(row.command, 'weights')
    path = folder / f'{name}{row.ending}'
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(row.make)
    return path


def run(row: Row, path: pathlib.Path, folder: pathlib.Path) -> None:
    """The command, as a shell runs it."""
    to = folder / 'to.png'
    if row.command == 'weights':
        argv = [str(path), '--config=configs/resnet.py:18', f'--to={to}']
        commands.run(weights_command.main, argv)
    elif row.command == 'picture':
        (folder / 'one' / 'a.JPEG').write_bytes(samples.picture())
        argv = [str(folder), f'--sheet={to}', '--pictures=4', '--config.data.augment.size=16']
        commands.run(inspect.main, argv)
    elif row.command == 'mnist':
        config = base.get_config().data
        config.source, config.dir = 'mnist', str(folder)
        commands.run(lambda argv: sources.open_source(config, 'train') and None, [])
    else:
        commands.run(
            lambda argv: ilsvrc.scan(
                'train', ilsvrc.check_archive('train', folder, partial=True, checksum=False)
            ) and None,
            [],
        )  # fmt: skip


@pytest.mark.filterwarnings('ignore')  # Pillow's, over odd metadata
@pytest.mark.parametrize('row', ROWS, ids=lambda row: f'{row.command}: {row.name}')
def test_one_line(row: Row, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(row, tmp_path)
    before = {*tmp_path.rglob('*')} | {tmp_path / 'one' / 'a.JPEG'}
    children = psutil.Process().children()
    started = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        run(row, path, tmp_path)
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith('error: ')]
    assert ended.value.code == USER_ERROR, said
    assert len(errors) == 1, said
    assert said.splitlines()[-1:] == errors, said
    assert 'Traceback' not in said
    assert errors[0].isprintable()
    assert len(errors[0]) < 1000
    assert row.words in errors[0]
    assert path.name in errors[0] or f'{path.parent}: ' in errors[0]
    assert {*tmp_path.rglob('*')} | {tmp_path / 'one' / 'a.JPEG'} == before
    assert psutil.Process().children() == children
    assert time.monotonic() - started < SECONDS


def test_the_whole_files_are_read(tmp_path: pathlib.Path) -> None:
    """What the rows damage is whole, so that they are refused for the damage alone."""
    from tests.fuzz.readers import READERS

    for name, reader in READERS.items():
        if name == 'hdf5':
            continue  # its process is another one there
        for number, whole in enumerate(reader.seeds()):
            path = tmp_path / f'{name}{number}'
            path.write_bytes(whole)
            assert reader.read(path)
