"""A prepared data set read back as training will read it: counted, decoded, held to its source."""

import concurrent.futures
import dataclasses
import json
import pathlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from cnn_arch import files
from cnn_arch.data import decode, progress
from cnn_arch.data.preparation import records
from cnn_arch.errors import UserError

LARGEST_REPORT = 1 << 28  # bytes
REPORT = 'verified.json'  # beside the shards: what the verification found
SHOWN = 20  # names of a list that are printed


@dataclasses.dataclass
class Job:
    """A checked input: what it must yield, and the function that writes it below a folder."""

    source: str
    bytes: int
    classes: dict[str, Counter[str]]  # split -> class -> images
    labels: dict[str, str]  # file name -> class, where it is known beforehand
    write: Callable[[pathlib.Path], list[str]]


@dataclasses.dataclass
class SplitReport:
    """What the records of one split hold."""

    images: int
    classes: int
    smallest_class: int
    largest_class: int
    bytes: int
    shards: int
    kinds: dict[str, int]  # 'JPEG RGB', 'JPEG L' (grey), ... -> images
    unreadable: dict[str, str]  # file -> why


@dataclasses.dataclass
class Report:
    """The verification of a data set, kept beside it."""

    name: str
    version: str
    source: str
    splits: dict[str, SplitReport]
    converted: list[str]  # CMYK and PNG files that became RGB JPEGs

    def save(self, folder: pathlib.Path) -> None:
        """Into the folder of the data set, for `load`."""
        (folder / REPORT).write_text(json.dumps(dataclasses.asdict(self), indent=1) + '\n')

    def lines(self, folder: pathlib.Path) -> Iterator[str]:
        """For people."""
        yield f'{self.name} {self.version} in {folder}, from {self.source}'
        for split, part in self.splits.items():
            kinds = ', '.join(f'{count:,} {kind}' for kind, count in sorted(part.kinds.items()))
            yield (
                f'  {split}: {part.images:,} images of {part.classes:,} classes '
                f'({part.smallest_class:,} to {part.largest_class:,} each), '
                f'{progress.size(part.bytes)} in {part.shards:,} shards; {kinds}'
            )
        yield f'  converted to RGB JPEG: {some(self.converted)}'
        bad = self.unreadable()
        yield f'  unreadable: {len(bad) or "none"}'
        yield from (f'    {line}' for line in bad)

    def unreadable(self) -> list[str]:
        """A line for each image that does not decode."""
        return [
            f'{split}/{name}: {why}'
            for split, part in self.splits.items()
            for name, why in part.unreadable.items()
        ]


def load(folder: pathlib.Path) -> Report | None:
    """The report that `Report.save` left there, if any. Raises UserError where it is damaged."""
    path = folder / REPORT
    if not path.is_file():
        return None
    with files.reading(path, 'report of a verification; remove it, and it is made again'):
        data = json.loads(files.read_text(path, LARGEST_REPORT))
        splits = {split: SplitReport(**part) for split, part in data.pop('splits').items()}
        return Report(**data, splits=splits)


def verify(data_dir: pathlib.Path, name: str, threads: int, job: Job | None = None) -> Report:
    """Reads all that was written, as training will: without TensorFlow, each picture decoded.

    Raises UserError where it is not what the job was to write.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=str(data_dir))
    classes = builder.info.features['label'].names
    source = job.source if job else 'another preparation'
    report = Report(name, str(builder.version), source, {}, [])
    for split, info in builder.info.splits.items():
        records_of = builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
        counts: Counter[str] = Counter()
        kinds: Counter[str] = Counter()
        unreadable = {}
        total = 0
        with (
            concurrent.futures.ThreadPoolExecutor(threads) as pool,
            progress.Progress(f'verifying {split}', len(records_of)) as shown,
        ):
            for start in range(0, len(records_of), records.READ_AHEAD):
                end = min(start + records.READ_AHEAD, len(records_of))
                chunk = records_of.__getitems__(list(range(start, end)))
                checks = pool.map(_check_image, [record['image'] for record in chunk])
                for record, (kind, problem) in zip(chunk, checks, strict=True):
                    key = record['file_name'].decode()
                    label = classes[record['label']]
                    if job and job.labels.get(key, label) != label:
                        raise UserError(
                            f'{split}: {key} was written as {label}, it is {job.labels[key]}; '
                            'nothing was kept'
                        )
                    counts[label] += 1
                    kinds[kind] += 1
                    total += len(record['image'])
                    if problem:
                        unreadable[key] = problem
                    shown.add()
        if job and counts != job.classes.get(split):
            expected = sum(job.classes.get(split, Counter()).values())
            raise UserError(
                f'{split}: {sum(counts.values()):,} images were written, or others, where '
                f'{expected:,} were found; nothing was kept'
            )
        report.splits[split] = SplitReport(
            images=sum(counts.values()),
            classes=len(counts),
            smallest_class=min(counts.values()),
            largest_class=max(counts.values()),
            bytes=total,
            shards=info.num_shards,
            kinds=dict(kinds),
            unreadable=unreadable,
        )
    if job and set(report.splits) != set(job.classes):
        raise UserError(f'not all of {", ".join(job.classes)} were written; nothing was kept')
    return report


def _check_image(encoded: bytes) -> tuple[str, str]:
    """Its format and colour mode, and what prevents it from being decoded, or ''."""
    kind, mode, _ = records.image_kind(encoded)
    try:
        decode.decode(encoded)
    except UserError as error:
        return f'{kind} {mode}', str(error)
    return f'{kind} {mode}', ''


def judge(report: Report, keep: bool) -> None:
    """Raises UserError, after a line for each, if there are unreadable images and none may be."""
    bad = report.unreadable()
    if bad and not keep:
        for line in bad:
            print(f'unreadable: {line}', file=sys.stderr)
        raise UserError(
            f'{len(bad):,} unreadable images, nothing was kept: repair or remove them, or keep '
            'them with --keep-unreadable (training then needs --config.data.on_bad_image=skip)'
        )


def some(names: Sequence[str]) -> str:
    """How many there are, and the first of them."""
    if not names:
        return 'none'
    more = f' and {len(names) - SHOWN:,} more' if len(names) > SHOWN else ''
    return f'{len(names):,} ({", ".join(names[:SHOWN])}{more})'
