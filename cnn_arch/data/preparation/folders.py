"""Folders of pictures: which of them make which split, under which labels."""

import argparse
import logging
import pathlib
from collections import Counter
from collections.abc import Callable

from cnn_arch import files
from cnn_arch.data import synsets
from cnn_arch.data.folders import LITTER
from cnn_arch.data.preparation import ilsvrc, records
from cnn_arch.data.preparation.verification import Job, some
from cnn_arch.errors import UserError

OWN_VERSION = '1.0.0'
SPLIT_FOLDERS = {'train': ('train',), 'validation': ('val', 'validation'), 'test': ('test',)}


def job(args: argparse.Namespace) -> Job:
    """What is to be done with the pictures below `args.from_folder`. Raises UserError."""
    root = args.from_folder
    if not root.is_dir():
        raise UserError(f'--from-folder={root}: no such folder')
    imagenet = args.name == ilsvrc.NAME
    splits = _imagenet_folder(root, args) if imagenet else _own_folder(root)
    classes = synsets.ilsvrc_2012() if imagenet else sorted({p.label for p in splits['train']})
    known = set(classes)
    for split, pictures in splits.items():
        extra = sorted({picture.label for picture in pictures} - known)
        if extra:
            raise UserError(
                f'{root}: {split} has classes that '
                f'{"ILSVRC-2012" if imagenet else "train"} has not: {some(extra)}'
            )
        twice = [key for key, n in Counter(p.key for p in pictures).items() if n > 1]
        if twice:
            raise UserError(f'{root}: {split} has files of the same name: {some(sorted(twice))}')
    counts = {split: Counter(p.label for p in pictures) for split, pictures in splits.items()}
    if imagenet and not args.partial:
        for split, count in counts.items():
            ilsvrc.check_counts(split, sum(count.values()), len(count), root)
    version = ilsvrc.VERSION if imagenet else OWN_VERSION

    def write(staging: pathlib.Path) -> list[str]:
        return records.write(staging, args.name, version, splits, classes, imagenet, args.threads)

    return Job(
        source=str(root.resolve()),
        bytes=sum(files.size_of(p.path) for pictures in splits.values() for p in pictures),
        classes=counts,
        labels={p.key: p.label for pictures in splits.values() for p in pictures},
        write=write,
    )


def _own_folder(root: pathlib.Path) -> dict[str, list[records.Picture]]:
    """train/, val/ and test/ of class folders; or class folders, which are all `train`."""
    if not (root / 'train').is_dir():
        return {'train': _classes(root, lambda folder, path: f'{folder}/{path.name}')}
    splits = {}
    for split, names in SPLIT_FOLDERS.items():
        folder = next((root / name for name in names if (root / name).is_dir()), None)
        if folder is not None:
            splits[split] = _classes(folder, lambda folder, path: f'{folder}/{path.name}')
    return splits


def _imagenet_folder(
    root: pathlib.Path, args: argparse.Namespace
) -> dict[str, list[records.Picture]]:
    """train/<wnid>/*.JPEG and val/, flat or in class folders; records bear the bare file name."""
    folders = {
        split: next((root / n for n in SPLIT_FOLDERS[split] if (root / n).is_dir()), None)
        for split in ilsvrc.ARCHIVES
    }
    for split, found in folders.items():
        if found is None:
            raise UserError(f'{root}: no folder {" or ".join(SPLIT_FOLDERS[split])}')
    train, val = (folders[split] or root for split in ilsvrc.ARCHIVES)
    labels = ilsvrc.validation_labels(args.val_labels)
    flat = not records.class_folders(val)
    validation = _flat(val, labels) if flat else _classes(val, lambda _, path: path.name)
    for picture in validation:
        expected = _published(picture.key, labels)
        if expected not in (None, picture.label):
            raise UserError(f'{picture.path}: its class is {expected}, not {picture.label}')
    return {'train': _classes(train, lambda _, path: path.name), 'validation': validation}


def _classes(root: pathlib.Path, key: Callable[[str, pathlib.Path], str]) -> list[records.Picture]:
    folders = records.class_folders(root)
    if not folders:
        raise UserError(f'{root}: no class folders (<class>/*.JPEG)')
    pictures = []
    for folder in folders:
        found = _pictures(folder)
        if not found:
            raise UserError(
                f'{folder}: no pictures ({", ".join(records.IMAGE_SUFFIXES)}) of this class'
            )
        pictures += [records.Picture(path, folder.name, key(folder.name, path)) for path in found]
    return pictures


def _published(name: str, labels: list[str]) -> str | None:
    """The class of ILSVRC2012_val_XXXXXXXX.JPEG; None for other names."""
    match = ilsvrc.VALIDATION_IMAGE.fullmatch(name)
    return labels[int(match[1]) - 1] if match and 0 < int(match[1]) <= len(labels) else None


def _flat(folder: pathlib.Path, labels: list[str]) -> list[records.Picture]:
    pictures = []
    for path in _pictures(folder):
        label = _published(path.name, labels)
        if label is None:
            raise UserError(
                f'{path}: labels go by the number in ILSVRC2012_val_XXXXXXXX.JPEG; put other files '
                'into class folders'
            )
        pictures.append(records.Picture(path, label, path.name))
    if not pictures:
        raise UserError(f'{folder}: no pictures')
    return pictures


def _pictures(folder: pathlib.Path) -> list[pathlib.Path]:
    inner = [path for path in records.class_folders(folder) if path.name.lower() not in LITTER]
    if inner:
        raise UserError(
            f'{inner[0]}: a folder within a class folder; pictures are taken from the class folder '
            'itself: move them up'
        )
    pictures, others = records.pictures_of(folder)
    if others:
        logging.info('left out: %s in %s', some([path.name for path in others]), folder)
    return pictures
