"""Makes a tfds data set of ArrayRecord shards: ImageNet from its archives, or a folder of pictures.

    python -m cnn_arch.data.prepare imagenet2012 --manual-dir=DIR --out=DIR
    python -m cnn_arch.data.prepare imagenet2012 --from-folder=DIR --out=DIR
    python -m cnn_arch.data.prepare flowers --from-folder=DIR --out=DIR

The first takes ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, lets tfds' own builder do the
work and therefore needs TensorFlow (requirements-prepare.txt); the others, and reading what any of
them has made, need none. A folder is `train/<class>/*.JPEG` and `val/<class>/*.JPEG`, of ImageNet
also `val/*.JPEG`; or, for a data set of one's own, just `<class>/*.JPEG`.

Everything is checked first, written beside its place and verified there: each picture is decoded,
each class counted. Only then is it moved to OUT/NAME/VERSION, in one step. So whatever lies there
is whole, and a run that was interrupted leaves nothing but `OUT/.preparing-NAME`, which the next
one removes.
"""

import argparse
import contextlib
import fcntl
import functools
import logging
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator, Sequence

from cnn_arch.arguments import Parser
from cnn_arch.data import progress
from cnn_arch.data.preparation import archives, folders, ilsvrc, verification
from cnn_arch.errors import USER_ERROR, UserError

# Names that mean something else to the commands of this project.
TAKEN = ('digits', 'digits_scenes', 'folder', 'mnist')
FULL = 64 << 20  # bytes; with less left a failure to write is put down to the full disk
INTERRUPTED = 130  # as shells have it


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stderr)
    logging.getLogger('absl').setLevel(logging.ERROR)  # tfds tells of each file it opens
    try:
        prepare(_parser().parse_args(argv))
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print('interrupted: nothing was kept', file=sys.stderr)
        return INTERRUPTED
    return 0


def prepare(args: argparse.Namespace) -> None:
    """Checks, writes, verifies and puts into place. Raises UserError."""
    name, out = args.name, args.out
    _check_arguments(args)
    version = ilsvrc.VERSION if name == ilsvrc.NAME else folders.OWN_VERSION
    target = out / name / version
    if target.exists():
        _already_there(target, args)
        return
    with _staging(out, name) as staging:
        job = archives.job(args) if args.manual_dir else folders.job(args)
        _check_space(out, job.bytes)
        converted = job.write(staging)
        report = verification.verify(staging, name, args.threads, job)
        report.converted = converted
        verification.judge(report, args.keep_unreadable)
        report.save(staging / name / version)
        os.sync()  # before the name, the bytes: a power cut must not leave a whole-looking set
        target.parent.mkdir(parents=True, exist_ok=True)
        (staging / name / version).rename(target)
    _show(report, target)


def _check_arguments(args: argparse.Namespace) -> None:
    name = args.name
    if args.checksums and (args.partial or args.from_folder):
        raise UserError('--checksums compares the whole archives: neither --partial nor a folder')
    if name == ilsvrc.NAME:
        return
    if args.manual_dir:
        raise UserError(f'--manual-dir is for {ilsvrc.NAME}; give {name!r} a --from-folder')
    if args.partial or args.checksums or args.val_labels:
        raise UserError(f'--partial, --checksums and --val-labels are for {ilsvrc.NAME}')
    if not re.fullmatch(r'[a-z][a-z0-9_]*', name):
        raise UserError(f'{name!r}: a data set is named in small letters, digits and underscores')
    import tensorflow_datasets as tfds

    if name in TAKEN or name in tfds.list_builders(with_community_datasets=False):
        raise UserError(f'{name!r} is the name of another, public data set: choose a new one')


@contextlib.contextmanager
def _staging(out: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """An empty folder beside the final place, ours alone, gone when all is done or has failed."""
    folder = out / f'.preparing-{name}'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / 'lock').open('w')
    except OSError as error:
        raise UserError(f'--out={out}: {error.strerror}') from None
    with lock:
        try:
            # The lock dies with its process, so a folder without one is left from a dead run.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f'another run is preparing {name} in {out} right now') from None
        except OSError:  # a file system without locks
            logging.warning('%s cannot be locked: see to it that no other run uses it', folder)
        leftovers = [path for path in folder.iterdir() if path.name != 'lock']
        if leftovers:
            logging.info('an earlier run was interrupted: its rest is removed, beginning again')
            for path in leftovers:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        try:
            yield folder
        except UserError:
            raise
        except Exception:
            # TensorFlow, ArrayRecord and Python each have an error of their own for it.
            if shutil.disk_usage(out).free < FULL:
                raise UserError(f'the disk of {out} is full: nothing was kept') from None
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _check_space(out: pathlib.Path, needed: int) -> None:
    needed = round(needed * 1.01) + (64 << 20)  # labels, names, the shards' own structure
    free = shutil.disk_usage(out).free
    if free < needed:
        raise UserError(f'{out} has {progress.size(free)} free, {progress.size(needed)} are needed')


def _already_there(target: pathlib.Path, args: argparse.Namespace) -> None:
    """Shows what is known of a data set that exists; one from elsewhere is verified first."""
    logging.info('%s is there already; remove it to prepare it again', target)
    report = verification.load(target)
    if report is None:
        report = verification.verify(args.out, args.name, args.threads)
        if args.name == ilsvrc.NAME and not args.partial:
            for split in ilsvrc.ARCHIVES:
                part = report.splits.get(split)
                found = (part.images, part.classes) if part else (0, 0)
                ilsvrc.check_counts(split, *found, where=target)
        verification.judge(report, args.keep_unreadable)
        report.save(target)
    _show(report, target)


def _show(report: verification.Report, folder: pathlib.Path) -> None:
    for line in report.lines(folder):
        print(line)
    print(
        f'read it with --config.data.source={report.name} '
        f'--config.data.dir={folder.parents[1].resolve()}'
    )


def _parser() -> Parser:
    parser = Parser(
        prog='python -m cnn_arch.data.prepare',
        description='Prepare ImageNet, or any folder of class folders, for random access.',
    )
    parser.add_argument('name', help='imagenet2012, or a new name of your own')
    option = functools.partial(parser.add_argument, metavar='DIR', type=pathlib.Path)
    option('--out', required=True, help='where data sets lie ($TFDS_DATA_DIR), a folder each')
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument(
        '--manual-dir',
        metavar='DIR',
        type=pathlib.Path,
        help='holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar',
    )
    origin.add_argument(
        '--from-folder',
        metavar='DIR',
        type=pathlib.Path,
        help='holds train/<class>/ and val/, or class folders',
    )
    option(
        '--val-labels',
        metavar='FILE',
        help="labels of a flat val/: a WordNet id or the devkit's number per line "
        '(ILSVRC2012_validation_ground_truth.txt); default: the ones that tfds has',
    )
    option('--threads', metavar='N', type=int, default=os.cpu_count() or 1, help='default: all')
    flag = functools.partial(parser.add_argument, action='store_true')
    flag('--checksums', help="compare the archives' SHA-256 first (reads 155 GB)")
    flag('--partial', help='accept a part of ImageNet, for trials')
    flag('--keep-unreadable', help='keep a data set with images that do not decode')
    return parser


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
