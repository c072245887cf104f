"""ImageNet from its archives: tfds' own builder at work on files that were checked, watched."""

import argparse
import contextlib
import importlib.util
import io
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from cnn_arch.data import progress
from cnn_arch.data.preparation import ilsvrc
from cnn_arch.data.preparation.verification import Job
from cnn_arch.errors import UserError

OPEN_FILES = 1100  # tfds sorts large splits through a thousand files at a time


def job(args: argparse.Namespace) -> Job:
    """What is to be done with the archives in `args.manual_dir`. Raises UserError."""
    if not args.manual_dir.is_dir():
        raise UserError(f'--manual-dir={args.manual_dir}: no such folder')
    if args.val_labels:
        raise UserError('--val-labels is for --from-folder: tfds has its own for the archives')
    archives = {
        split: ilsvrc.check_archive(split, args.manual_dir, args.partial, args.checksums)
        for split in ilsvrc.ARCHIVES
    }
    _check_tensorflow()
    from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder as builder

    odd = [*builder.CMYK_IMAGES, *builder.PNG_IMAGES]
    contents = {split: ilsvrc.scan(split, path, odd) for split, path in archives.items()}
    for split, content in contents.items():
        if not args.partial:
            ilsvrc.check_counts(split, content.images, len(content.classes), archives[split])
    total = sum(content.bytes for content in contents.values())
    if total > 5e8:
        allow_open_files()
    published = enumerate(ilsvrc.published_labels()[: contents['validation'].images], 1)

    def write(staging: pathlib.Path) -> list[str]:
        _build_with_tfds(staging, archives, contents)
        return sorted(set().union(*(content.names for content in contents.values())))

    return Job(
        source=str(args.manual_dir.resolve()),
        bytes=total,
        classes={split: content.classes for split, content in contents.items()},
        labels={f'ILSVRC2012_val_{number:08d}.JPEG': wnid for number, wnid in published},
        write=write,
    )


def _check_tensorflow() -> None:
    install = (
        'pip install -r requirements-prepare.txt (best in an environment of its own; reading the '
        'data set needs none of it, and --from-folder neither)'
    )
    if importlib.util.find_spec('tensorflow') is None:
        raise UserError(
            f"ImageNet's archives are read with TensorFlow, which is missing: {install}"
        )
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # it talks of instruction sets
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
    try:
        import tensorflow  # noqa: F401
    except Exception as error:  # whatever a broken installation raises
        first = (str(error).splitlines() or [repr(error)])[0]
        raise UserError(f'TensorFlow cannot be imported ({first}): {install}') from None


def _build_with_tfds(
    staging: pathlib.Path,
    archives: dict[str, pathlib.Path],
    contents: dict[str, ilsvrc.Contents],
) -> None:
    import tensorflow_datasets as tfds

    # Links to just these two: tfds would also take a test set that lies beside them.
    manual = staging / 'manual'
    manual.mkdir()
    for path in archives.values():
        (manual / path.name).symlink_to(path.resolve())

    tfds.disable_progress_bar()
    builder = tfds.builder(ilsvrc.NAME, data_dir=str(staging), file_format='array_record')
    if str(builder.version) != ilsvrc.VERSION:
        raise UserError(
            f'this tfds makes {ilsvrc.NAME} {builder.version}, not {ilsvrc.VERSION}: '
            'pip install -r requirements-prepare.txt'
        )
    # tfds knows neither how many images will come nor how long it takes: count them on their way,
    # into its sorting and out of it.
    counts = iter(contents.items())
    generate, writer = builder._generate_examples, builder._example_writer()
    writing: list[progress.Progress] = []

    def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
        split, content = next(counts)
        with progress.Progress(f'reading {split}', content.images) as report:
            yield from report.over(generate(*args, **kwargs))
        writing.append(progress.Progress(f'writing {split}', content.images))

    class CountingWriter(type(writer)):  # type: ignore[misc]
        def write(self, path: Any, examples: Any) -> Any:
            result = super().write(path, writing[-1].over(examples))
            if writing[-1].done == writing[-1].total:
                writing[-1].close()
            return result

    builder._generate_examples = counted
    builder._example_writer = lambda: CountingWriter(writer.file_format)
    with contextlib.redirect_stdout(io.StringIO()):  # it announces the folder of the moment
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=str(manual), try_download_gcs=False
            )
        )


def allow_open_files() -> None:
    """Raises the soft limit of open files to what sorting takes, or UserError where it may not."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    if not unlimited and hard < OPEN_FILES:
        raise UserError(
            f'only {hard} files may be open at a time, sorting needs {OPEN_FILES}: raise the limit '
            '(ulimit -Hn)'
        )
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        wanted = 4096 if unlimited else min(4096, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
