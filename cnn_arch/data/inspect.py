"""What a data set holds, and what the network sees of it.

    python -m cnn_arch.data.inspect DATASET [--dir=DIR] [--config=FILE:VARIANT] [--sheet=FILE.png]

DATASET is a folder of pictures, or a name as in `config.data.source`. Prints images per class,
sizes and colour modes, from the headers of all images (`--sample=N`: of N, evenly spread). The
contact sheet shows the first samples of the training stream of that configuration after
augmentation, colours included, as pixels of the network's input, each above its class.
"""

import argparse
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence

import ml_collections
import numpy as np
from PIL import Image, ImageDraw

from cnn_arch import commands, configuration
from cnn_arch.arguments import Parser
from cnn_arch.config_keys import check_read
from cnn_arch.data import arrays, loader, preprocess, progress, sources
from cnn_arch.data.classes import Names
from cnn_arch.data.preparation import records
from cnn_arch.errors import UserError, shown
from configs import base

CAPTION = 12  # pixels below a picture of the sheet
LETTER = 6  # pixels, their width there
SMALLEST_TILE = 96  # pixels; smaller inputs are shown enlarged
PER_LINE = 10  # classes
SHOWN = 10  # unreadable images that are named


def main(argv: Sequence[str]) -> None:
    """The command line; raises UserError."""
    overrides, rest = commands.split_overrides(argv)
    args = _parser().parse_args(rest)
    config = configuration.load(args.config) if args.config else base.get_config().lock()
    commands.apply_overrides(config, overrides)
    check_read(overrides, ('data.', 'seed'))
    if pathlib.Path(args.dataset).is_dir():
        config.data.source, config.data.dir = 'folder', args.dataset
    else:
        config.data.source, config.data.dir = args.dataset, args.dir or config.data.dir
    configuration.validate(config)
    if args.pictures < 1 or args.sample < 0:
        raise UserError('--pictures must be at least 1 and --sample 0 or more')
    if not args.sheet.parent.is_dir():
        raise UserError(f'--sheet={args.sheet}: no such folder')

    source = sources.open_source(config.data, args.split)
    arrays.check(source, config.data.augment)
    for line in describe(source, args.sample, config.data.augment.size):
        print(line)
    inputs, labels = network_inputs(source, config, args.pictures)
    low, high = inputs.min(), inputs.max()
    print(
        f'input of the network, {len(inputs)} samples: mean {inputs.mean():.2f}, standard '
        f'deviation {inputs.std():.2f}, from {low:.2f} to {high:.2f}'
    )
    contact_sheet(inputs, labels, config.data, source.classes).save(args.sheet)
    print(f'contact sheet: {args.sheet}')


def describe(source: sources.Source, sample: int, side: int) -> Iterator[str]:
    """Lines for people: counts per class, sizes, colour modes; `sample` images, or 0 for all."""
    count = min(sample, len(source)) if sample else len(source)
    indices = np.linspace(0, len(source) - 1, count).round().astype(int)
    labels: Counter[int] = Counter()
    kinds: Counter[str] = Counter()
    sizes, keys, unreadable = np.zeros((count, 2), int), [], []
    with progress.Progress('reading', count) as report:
        for place, index in enumerate(indices):
            example = source[int(index)]
            labels[example.label] += 1
            if isinstance(example.image, bytes):
                kind, mode, (width, height) = records.image_kind(example.image)
            else:
                height, width, channels = example.image.shape
                kind, mode = 'array', {1: 'L', 3: 'RGB'}.get(channels, str(channels))
            kinds[f'{kind} {mode}'] += 1
            sizes[place] = height, width
            keys.append(example.key)
            if not height:
                unreadable.append(example.key)
            report.add()

    part = f', {count:,} of them looked at' if count < len(source) else ''
    yield f'{source.name}: {len(source):,} images{part}, {source.num_classes:,} classes'
    yield from _class_lines(labels, source.classes)
    known = sizes[:, 0] > 0
    if known.any():
        yield from _size_lines(sizes[known], [k for k, ok in zip(keys, known, strict=True) if ok])
        small = int((sizes[known].min(axis=1) < side).sum())
        yield f'  {small:,} images have a side below the {side} pixels of the input'
    modes = ', '.join(f'{number:,} {kind}' for kind, number in kinds.most_common())
    yield f'formats and colour modes: {modes}'
    if unreadable:
        more = ', ...' if len(unreadable) > SHOWN else ''
        yield f'no picture at all: {len(unreadable):,} ({", ".join(unreadable[:SHOWN])}{more})'


def _class_lines(labels: Counter[int], names: Names) -> Iterator[str]:
    present = sorted(labels)
    counts = [labels[label] for label in present]
    yield (
        f'images per class: {min(counts):,} to {max(counts):,}, median {np.median(counts):,.0f}; '
        f'{len(names) - len(present):,} classes without any'
    )
    for start in range(0, len(present), PER_LINE):
        cells = [
            f'{_called(label, names)}: {labels[label]:,}'
            for label in present[start : start + PER_LINE]
        ]
        yield '  ' + '  '.join(cell.ljust(10) for cell in cells).rstrip()


def _called(label: int, names: Names) -> str:
    """A class by number and name, where it has one."""
    name = names[label]
    return name if name == str(label) else f'{label} {shown(name)}'


def _size_lines(sizes: np.ndarray, keys: list[str]) -> Iterator[str]:
    yield 'sizes in pixels: smallest, 5 %, median, 95 %, largest'
    for name, sides in (('shorter side', sizes.min(axis=1)), ('longer side', sizes.max(axis=1))):
        points = np.percentile(sides, [0, 5, 50, 95, 100], method='nearest')
        yield f'  {name}: {", ".join(f"{point:,}" for point in points)}'
    area = sizes.prod(axis=1)
    for name, place in (('smallest', area.argmin()), ('largest', area.argmax())):
        yield f'  {name} image: {sizes[place, 1]}x{sizes[place, 0]}, {keys[place]}'


def network_inputs(
    source: sources.Source, config: ml_collections.ConfigDict, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first samples of training, as the network gets them: float32 [N, H, W, C], int32 [N]."""
    batch = loader.reader_of(source, config).batch(range(count))
    return np.asarray(preprocess.normalise(batch, config.data)), batch['label']


def contact_sheet(
    inputs: np.ndarray, labels: np.ndarray, data: ml_collections.ConfigDict, names: Names
) -> Image.Image:
    """The inputs [N, H, W, C] in a square of tiles, mean and scale undone, each above its class.

    Values beyond black and white, which colour shifts can make, are shown as these.
    """
    pixels = inputs * np.float32(data.std) + np.float32(data.mean)
    pixels = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
    count, height, width, channels = pixels.shape
    zoom = max(1, SMALLEST_TILE // max(height, width))
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    tile = (width * zoom, height * zoom + CAPTION)
    sheet = Image.new('RGB', (columns * tile[0], rows * tile[1]), 'white')
    draw = ImageDraw.Draw(sheet)
    for place, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        corner = (place % columns * tile[0], place // columns * tile[1])
        picture = Image.fromarray(image[:, :, 0] if channels == 1 else image).convert('RGB')
        picture = picture.resize((tile[0], height * zoom), Image.Resampling.NEAREST)
        sheet.paste(picture, corner)
        caption = f'class {_called(label, names)}'[: tile[0] // LETTER]
        draw.text((corner[0] + 2, corner[1] + height * zoom), caption, fill='black')
    return sheet


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog='python -m cnn_arch.data.inspect',
        description='Images per class, sizes, colour modes, and what the network sees.',
        epilog='Any key of configs/base.py can be changed: --config.data.augment.scale_max=512',
    )
    parser.add_argument('dataset', help='a folder, or a name as in config.data.source')
    parser.add_argument('--dir', default='', help='where a data set of that name lies')
    parser.add_argument('--split', choices=('train', 'eval'), default='train')
    parser.add_argument(
        '--config', metavar='FILE[:VARIANT]', help='whose augmentation; default: configs/base.py'
    )
    parser.add_argument(
        '--sheet', type=pathlib.Path, default=pathlib.Path('contact_sheet.png'), metavar='FILE.png'
    )
    parser.add_argument('--pictures', type=int, default=64, metavar='N', help='on the sheet')
    parser.add_argument(
        '--sample', type=int, default=0, metavar='N', help='look at N images; default: at all'
    )
    return parser


if __name__ == '__main__':
    commands.run(main)
