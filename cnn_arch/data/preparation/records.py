"""Folders of pictures as tfds data sets in ArrayRecord shards, without TensorFlow.

Order of the records, number of shards and metadata are what tfds' own builder gives: it sorts by
the MD5 of split and file name. So ImageNet prepared from folders and from the archives is the same
stream of samples.
"""

import concurrent.futures
import dataclasses
import io
import itertools
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from cnn_arch import files
from cnn_arch.data import decode, progress

IMAGE_SUFFIXES = ('.jpeg', '.jpg', '.png')
READ_AHEAD = 256  # pictures in memory at a time


@dataclasses.dataclass(frozen=True)
class Picture:
    """A file, the name of its class, and the name that stands in its record."""

    path: pathlib.Path
    label: str
    key: str


def class_folders(root: pathlib.Path) -> list[pathlib.Path]:
    """The folders of `root` that are no hidden ones, by name."""
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith('.'))


def pictures_of(folder: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """The picture files directly in a folder, and what else lies there, by name."""
    files = sorted(p for p in folder.iterdir() if not p.name.startswith('.') and not p.is_dir())
    pictures = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
    return pictures, [p for p in files if p not in set(pictures)]


def image_kind(encoded: bytes) -> tuple[str, str, tuple[int, int]]:
    """Format (JPEG, PNG, ...), colour mode (RGB, L, CMYK, ...) and (width, height), by its header.

    ('?', '?', (0, 0)) if it is no picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # what a damaged header makes Pillow say
            picture = Image.open(io.BytesIO(encoded), formats=decode.FORMATS)
            return picture.format or '?', picture.mode, picture.size
    except Exception:  # Pillow's plugins raise what they like on damaged headers
        return '?', '?', (0, 0)


def to_rgb_jpeg(encoded: bytes) -> bytes:
    """Any picture as RGB JPEG of quality 100, what tfds makes of ImageNet's few odd ones.

    Raises DecodeError where it is larger than the pictures that are decoded; Pillow has its own.
    """
    decode.image_size(encoded)
    result = io.BytesIO()
    picture = Image.open(io.BytesIO(encoded), formats=decode.FORMATS)
    picture.convert('RGB').save(result, 'JPEG', quality=100)
    return result.getvalue()


def features(classes: Sequence[str], jpeg: bool) -> Any:
    """What a record holds: the features of tfds' `imagenet2012`, with these classes."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            'image': tfds.features.Image(encoding_format='jpeg' if jpeg else None),
            'label': tfds.features.ClassLabel(names=list(classes)),
            'file_name': tfds.features.Text(),
        }
    )


def write(
    data_dir: pathlib.Path,
    name: str,
    version: str,
    splits: dict[str, list[Picture]],
    classes: Sequence[str],
    jpeg: bool,
    threads: int,
) -> list[str]:
    """Writes the data set `name` below `data_dir`; the files that were converted, by name.

    CMYK pictures become RGB JPEGs; with `jpeg` all that are not JPEGs do. A picture that cannot be
    read is written as it is: the verification lists it. Raises UserError for a file that vanished.
    """
    import tensorflow_datasets as tfds

    folder = data_dir / name / version
    folder.mkdir(parents=True)
    spec, infos, converted = features(classes, jpeg), [], []
    for split, pictures in splits.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=name, split=split, filetype_suffix='array_record'
        )
        info, names = _write_split(template, spec, pictures, jpeg, threads)
        infos.append(info)
        converted += names
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=spec,
        split_infos=infos,
        filename_template=template,
        supervised_keys=('image', 'label'),
        check_data=False,  # it would read with TensorFlow
    )
    return sorted(converted)


def _write_split(
    template: Any, spec: Any, pictures: list[Picture], jpeg: bool, threads: int
) -> tuple[Any, list[str]]:
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core import example_serializer, hashing
    from tensorflow_datasets.core.utils import shard_utils

    serializer = example_serializer.ExampleSerializer(spec.get_serialized_info())
    hasher = hashing.Hasher(template.split)
    ordered = sorted(pictures, key=lambda picture: hasher.hash_key(picture.key))
    overhead = len(serializer.serialize_example(spec.encode_example(
        {'image': b'\xff\xd8', 'label': pictures[0].label, 'file_name': pictures[0].key}
    )))  # fmt: skip
    total = sum(picture.path.stat().st_size + overhead for picture in pictures)
    shards = shard_utils.ShardConfig().get_number_shards(total, len(pictures))
    ends = shard_utils.get_shard_boundaries(len(pictures), shards)

    converted: list[str] = []
    written = 0
    report = progress.Progress(f'writing {template.split}', len(pictures))
    with report, concurrent.futures.ThreadPoolExecutor(threads) as pool:
        records = _read(ordered, jpeg, pool)
        for shard, (start, end) in enumerate(itertools.pairwise([0, *ends])):
            path = template.sharded_filepath(shard_index=shard, num_shards=shards)
            writer = ArrayRecordWriter(str(path), 'group_size:1')
            for picture, encoded, was_converted in itertools.islice(records, end - start):
                record = {'image': encoded, 'label': picture.label, 'file_name': picture.key}
                serialized = serializer.serialize_example(spec.encode_example(record))
                writer.write(serialized)
                written += len(serialized)
                if was_converted:
                    converted.append(picture.key)
                report.add()
            writer.close()
    lengths = [end - start for start, end in itertools.pairwise([0, *ends])]
    info = tfds.core.SplitInfo(
        name=template.split, shard_lengths=lengths, num_bytes=written, filename_template=template
    )
    return info, converted


def _read(
    pictures: list[Picture], jpeg: bool, pool: concurrent.futures.Executor
) -> Iterator[tuple[Picture, bytes, bool]]:
    """The pictures in order, read ahead in parallel, converted where they must be."""

    def load(picture: Picture) -> tuple[Picture, bytes, bool]:
        encoded = files.read_regular(picture.path, decode.MAX_BYTES)
        kind, mode, _ = image_kind(encoded)
        if mode == 'CMYK' or (jpeg and kind not in ('JPEG', '?')):
            try:
                return picture, to_rgb_jpeg(encoded), True
            except Exception:  # damaged: the verification will say so
                return picture, encoded, False
        return picture, encoded, False

    for start in range(0, len(pictures), READ_AHEAD):
        yield from pool.map(load, pictures[start : start + READ_AHEAD])
