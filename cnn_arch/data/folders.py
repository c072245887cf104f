"""A folder of pictures: which files are the pictures of a split, and of which class each is.

    DIR/<split>/<class>/*.JPEG     a class folder's sub-folders belong to the class
    DIR/<split>/labels.txt         lines of `file class`; files there or in images/
    DIR/<split>/ILSVRC2012_val_*   ILSVRC's validation set as it is handed out, flat
    DIR/ILSVRC/Data/CLS-LOC/...    the same as Kaggle hands it out

Where DIR has no folder of any split, DIR itself is every split. Each file is used once, or named
and counted in `Listing.remarks`, or refused:

- pictures are known by their endings, those of the formats that cnn_arch.data.decode reads;
- hidden files and folders (`.x`) and what macOS and Windows leave behind are no data;
- a link may lead anywhere within DIR. One that leads out of it, or nowhere, is refused, in class
  folders as in labels.txt (DIR and the folder of the split may be links themselves);
- a folder, FIFO, socket or device that is called as pictures are is refused; nothing is opened here
  but labels.txt and synsets.txt;
- a file that is found twice, by links of any kind or by lines of labels.txt, is refused.

Folders of WordNet ids that ILSVRC-2012 all knows have its 1,000 classes; as soon as one has another
name, all are ordinary names, whose order is the sorted one. A synsets.txt beside class folders or
labels.txt names the classes in their order.
"""

import collections
import dataclasses
import os
import pathlib
import posixpath
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator

import numpy as np

from cnn_arch.data import decode, synsets
from cnn_arch.data.wording import count, few
from cnn_arch.errors import UserError, shown

ENDINGS = {
    'BMP': ('.bmp',),
    'GIF': ('.gif',),  # of several pictures in one file the first is the one
    'JPEG': ('.jpeg', '.jpg'),
    'PNG': ('.png',),
    'PPM': ('.pgm', '.ppm'),
    'TIFF': ('.tif', '.tiff'),
    'WEBP': ('.webp',),
}
IMAGE_SUFFIXES = tuple(sorted(e for kind, all in ENDINGS.items() if kind in decode.FORMATS
                              for e in all))  # fmt: skip
LITTER = frozenset({'thumbs.db', 'ehthumbs.db', 'desktop.ini', '__macosx', '$recycle.bin',
                    'system volume information'})  # fmt: skip
LABELS, SYNSETS = 'labels.txt', 'synsets.txt'
TRUTH = 'ILSVRC2012_validation_ground_truth.txt'  # of the devkit
TRUTH_BYTES = 2**20
KAGGLE = ('ILSVRC', 'Data', 'CLS-LOC')
SPLITS = {'train': ('train',), 'validation': ('validation', 'val'), 'val': ('val', 'validation'),
          'eval': ('eval', 'validation', 'val'), 'test': ('test',)}  # fmt: skip

# Of labels.txt: 1.3 million lines of 100 bytes, and the longest path there can be.
LABELS_BYTES, LINE_BYTES = 2**27, 4096 + 16
LARGEST_CLASS = 999  # in a labels.txt without synsets.txt
KINDS = 5  # of files that are not used, by their endings, that a remark tells apart

ILSVRC_FILE = 'ILSVRC2012_'
VALIDATION_FILE = re.compile(r'ILSVRC2012_val_\d{8}\.jpeg', re.IGNORECASE)
VALIDATION_IMAGES = 50_000


@dataclasses.dataclass(frozen=True)
class Listing:
    """The pictures of a split; `names` are paths below `root`, `labels` numbers of `classes`.

    `numbered` is True where labels.txt numbers classes that nothing names. `complete` is the number
    of images of the whole split: 50,000 for a part of ILSVRC's validation set. `remarks` says in
    one line what was found and is not used, or not where one would look, or is ''.
    """

    root: pathlib.Path
    names: list[str]
    labels: list[int]
    classes: tuple[str, ...]
    numbered: bool
    complete: int
    remarks: str


def read(directory: pathlib.Path, split: str) -> Listing:
    """Lists a split. Raises UserError that names what is missing, ambiguous or refused."""
    try:
        return _read(directory, split)
    except OSError as error:
        where = shown(os.fsdecode(error.filename or directory))
        raise UserError(f'{where}: not readable: {error.strerror}') from error


def _read(directory: pathlib.Path, split: str) -> Listing:
    if not directory.is_dir():
        raise UserError(f'data.dir = {str(directory)!r}: no such folder')
    root = split_folder(directory, split)
    walk = _Walk(root, directory)
    if walk.has(LABELS):
        labelled = _labels_file(walk)
    elif any(map(walk.below, walk.folders)) or not _is_validation(walk.below('')):
        labelled = _class_folders(walk)
    else:
        labelled = _published(walk, directory)
    if not labelled.names:
        raise UserError(
            f'{root}: no pictures ({", ".join(IMAGE_SUFFIXES)}) in class folders, and no {LABELS}'
        )
    walk.require_distinct(labelled.names)
    size = len(labelled.names)
    ilsvrc = labelled.classes == tuple(synsets.ilsvrc_2012())
    validation = ilsvrc and (
        _is_validation(labelled.names) if walk.has(LABELS) else split in ('validation', 'val')
    )
    part = validation and size < VALIDATION_IMAGES
    return Listing(
        root,
        labelled.names,
        labelled.labels,
        labelled.classes,
        labelled.numbered,
        VALIDATION_IMAGES if part else size,
        '; '.join([*labelled.remarks, *walk.remarks()]),
    )


def split_folder(directory: pathlib.Path, split: str) -> pathlib.Path:
    """The folder of a split; `directory` itself where it holds none of any split.

    Raises UserError where other splits have theirs, and for a split of a name of its own.
    """
    kaggle = directory.joinpath(*KAGGLE)
    beside = _splits_in(directory)
    if not beside and kaggle.is_dir():
        directory, beside = kaggle, _splits_in(kaggle)
    names = SPLITS.get(split, (split,))
    for name in names:
        if split and (directory / name).is_dir():
            return directory / name
    if beside or split not in SPLITS:
        there = f'; there are {", ".join(beside)}' if beside else ''
        wanted = ' and no '.join(str(directory / name) for name in names)
        raise UserError(f'no folder {wanted} for the split {split!r}{there}')
    return directory


def _splits_in(directory: pathlib.Path) -> list[str]:
    names = dict.fromkeys(name for names in SPLITS.values() for name in names)
    return [name for name in names if (directory / name).is_dir()]


@dataclasses.dataclass
class _Labelled:
    classes: tuple[str, ...]
    names: list[str] = dataclasses.field(default_factory=list)
    labels: list[int] = dataclasses.field(default_factory=list)
    numbered: bool = False
    remarks: list[str] = dataclasses.field(default_factory=list)


# ---- three ways to know the classes


def _class_folders(walk: '_Walk') -> _Labelled:
    folders = _by_class(walk)
    beside = walk.below('')
    if beside and not any(walk.below(folder) for folder in folders.values()):
        raise UserError(
            f'{walk.root}: {count(len(beside), "picture")} ({few(beside)}) in no class folder, and '
            f'no {LABELS}: no pictures in class folders'
        )
    classes, remark = _ordered(walk, list(folders))
    found = _Labelled(classes, remarks=[remark] if remark else [])
    place = {name: number for number, name in enumerate(found.classes)}
    nested, empty = 0, []
    for name, folder in folders.items():
        files = walk.below(folder)
        found.names += files
        found.labels += [place[name]] * len(files)
        nested += sum(file.count('/') > 1 for file in files)
        if not files:
            empty.append(name)
    if nested:
        found.remarks.append(f'{count(nested, "picture")} in sub-folders of their class folder')
    if empty:
        found.remarks.append(
            f'no pictures of {count(len(empty), "class", "classes")}: {few(empty)}'
        )
    if beside:
        walk.leave_out('outside class folders', beside)
    return found


def _by_class(walk: '_Walk') -> dict[str, str]:
    """Class folders by the names of their classes, which are Unicode in its composed form."""
    folders: dict[str, str] = {}
    for folder in walk.folders:
        name = unicodedata.normalize('NFC', os.fsencode(folder).decode('utf-8', 'backslashreplace'))
        if name in folders:
            raise UserError(
                f'{walk.root}: two class folders are both called {shown(name)!r}, in two ways of '
                'Unicode: put their pictures into one'
            )
        folders[name] = folder
    return dict(sorted(folders.items()))


def _ordered(walk: '_Walk', names: list[str]) -> tuple[tuple[str, ...], str]:
    """All classes in their order, given the names of the folders, and a remark or ''."""
    if walk.has(SYNSETS):
        listed = synsets.read(walk.root / SYNSETS)
        other = sorted(set(names) - set(listed))
        if other:
            raise UserError(
                f'{walk.root / SYNSETS} names {count(len(listed), "class", "classes")}, but not '
                f'the class folder {few(other)}: add it, or remove {SYNSETS}'
            )
        return tuple(listed), ''
    ilsvrc = synsets.ilsvrc_2012()
    other = sorted(set(names) - set(ilsvrc))
    if names and not other:
        return tuple(ilsvrc), ''
    mixed = len(other) < len(names)
    remark = f"ordinary classes, not ILSVRC's, because of {few(other)} beside WordNet ids"
    return tuple(names), remark if mixed else ''


def _labels_file(walk: '_Walk') -> _Labelled:
    path = walk.root / LABELS
    named = synsets.read(walk.root / SYNSETS) if walk.has(SYNSETS) else []
    top = len(named) - 1 if named else LARGEST_CLASS
    found = _Labelled(())
    lines: dict[str, tuple[int, int]] = {}  # of each picture: line and class
    for number, line in _lines(path):
        where = f'{path}, line {number}'
        words = line.rsplit(maxsplit=1)
        if len(words) < 2 or not (words[1].isascii() and words[1].isdecimal()):
            raise UserError(f'{where}: expected `file class`, got {shown(line)!r}')
        label = int(words[1]) if len(words[1]) < 10 else top + 1
        if label > top:
            raise UserError(f'{where}: class {shown(words[1])} is out of range, 0 to {top}')
        name = walk.find(words[0].strip(), where)
        before = lines.setdefault(name, (number, label))
        if before[0] != number:
            raise UserError(
                f'{path}: {shown(name)} stands in line {before[0]} (class {before[1]}) and in line '
                f'{number} (class {label}); each picture has one line'
            )
        found.names.append(name)
        found.labels.append(label)
    if any(posixpath.basename(name).startswith(ILSVRC_FILE) for name in found.names) and not named:
        named = synsets.ilsvrc_2012()
    found.numbered = not named
    found.classes = tuple(named) or tuple(map(str, range(max(found.labels, default=-1) + 1)))
    rest = [name for name in walk.pictures if name not in lines]
    if rest:
        walk.leave_out(f'not in {LABELS}', rest)
    return found


def _lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank. Raises UserError, with the line's number."""
    with path.open('rb') as file:
        size = os.fstat(file.fileno()).st_size
        if size > LABELS_BYTES:
            raise UserError(f'{path}: {size:,} bytes; a {LABELS} has at most {LABELS_BYTES:,}')
        number = 0
        while raw := file.readline(LINE_BYTES + 1):
            number += 1
            if number == 1:
                if raw.startswith((b'\xff\xfe', b'\xfe\xff')):
                    raise UserError(f'{path}: UTF-16 text; save it as UTF-8')
                raw = raw.removeprefix(b'\xef\xbb\xbf')
            if len(raw) > LINE_BYTES:
                raise UserError(f'{path}, line {number}: longer than {LINE_BYTES:,} bytes')
            try:
                line = raw.decode().strip()
            except UnicodeDecodeError as error:
                raise UserError(
                    f'{path}, line {number}: byte 0x{raw[error.start]:02x} is not UTF-8; save the '
                    'file as UTF-8'
                ) from None
            if line:
                yield number, line


def _published(walk: '_Walk', directory: pathlib.Path) -> _Labelled:
    """ILSVRC's flat validation set, by the published labels of its numbers."""
    from cnn_arch.data.preparation import ilsvrc  # its labels are those of tfds, which takes long

    found = _Labelled(tuple(synsets.ilsvrc_2012()))
    place = {wnid: number for number, wnid in enumerate(found.classes)}
    truth = next((path for path in _truth_files(walk.root, directory) if path.is_file()), None)
    if truth is not None and truth.stat().st_size > TRUTH_BYTES:
        raise UserError(f'{truth}: {truth.stat().st_size:,} bytes are no list of 50,000 labels')
    labels = ilsvrc.validation_labels(truth)
    for name in walk.below(''):
        number = int(name[len('ILSVRC2012_val_') :].partition('.')[0])
        if not 0 < number <= len(labels):
            raise UserError(
                f'{walk.root / name}: ILSVRC has validation images 1 to {len(labels):,}'
            )
        found.names.append(name)
        found.labels.append(place[labels[number - 1]])
    return found


def _truth_files(root: pathlib.Path, directory: pathlib.Path) -> list[pathlib.Path]:
    folders = [root, directory]
    for devkit in ('devkit', 'ILSVRC2012_devkit_t12'):
        folders += [directory / devkit, directory / devkit / 'data']
    return [folder / TRUTH for folder in folders]


def _is_validation(names: Iterable[str]) -> bool:
    """Whether all are called as ILSVRC's validation images, and there is one."""
    names = [posixpath.basename(name) for name in names]
    return bool(names) and all(VALIDATION_FILE.fullmatch(name) for name in names)


# ---- what lies there


class _Walk:
    """All that lies below a folder, read once; what is refused anywhere is refused at once.

    Kinds come from the folders themselves: no file is asked for its status, unless it is a link or
    two have one number.
    """

    def __init__(self, root: pathlib.Path, directory: pathlib.Path):
        self.root = root
        self.pictures: dict[str, int] = {}  # path below the root: number of its inode
        self.folders: list[str] = []  # of the root, by name
        self._files: set[str] = set()  # other files of the root, with a meaning
        self._others: set[str] = set()
        self._left_out: list[str] = []
        self._within = {os.path.realpath(root), os.path.realpath(directory)}
        self._seen: dict[tuple[int, int], str] = {}  # folders, by device and number
        self._by_folder: dict[str, list[str]] = collections.defaultdict(list)
        self._walk()

    def _walk(self) -> None:
        waiting = ['']
        while waiting:
            below = waiting.pop()
            top = below.partition('/')[0]
            self._enter(below)
            with os.scandir(os.path.join(self.root, below)) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith('.') or name.lower() in LITTER:
                        continue
                    place = f'{below}/{name}' if below else name
                    is_picture = name.lower().endswith(IMAGE_SUFFIXES)
                    kind, inode = self._kind(entry, place, is_picture)
                    if kind == 'folder':
                        waiting.append(place)
                        if not below:
                            self.folders.append(name)
                    elif is_picture:
                        self.pictures[place] = inode
                        self._by_folder[top].append(place)
                    elif not below and name in (LABELS, SYNSETS, TRUTH):
                        self._files.add(name)
                    else:
                        self._others.add(place)
        self.folders.sort()
        for names in self._by_folder.values():
            names.sort()

    def _enter(self, below: str) -> None:
        status = os.stat(os.path.join(self.root, below))
        before = self._seen.setdefault((status.st_dev, status.st_ino), below)
        if before != below:
            raise UserError(
                f'{self._shown(below)} and {self._shown(before)} are one folder, by a link: each '
                'picture counts once; remove the link'
            )

    def _kind(self, entry: os.DirEntry, place: str, is_picture: bool) -> tuple[str, int]:
        """'file', 'folder' or 'special', and its number; refuses what must not be used."""
        if entry.is_symlink():
            kind, inode = self._kind_of_link(place, is_picture)
        elif entry.is_file(follow_symlinks=False):
            kind, inode = 'file', entry.inode()
        else:
            is_folder = entry.is_dir(follow_symlinks=False)
            kind, inode = 'folder' if is_folder else 'special', entry.inode()
        if kind != 'file' and (is_picture or place in (LABELS, SYNSETS)):
            what = 'a folder' if kind == 'folder' else 'a FIFO, socket or device'
            raise UserError(f'{self._shown(place)} is {what}, though called as a file: rename it')
        return kind, inode

    def _kind_of_link(self, place: str, is_picture: bool) -> tuple[str, int]:
        path = os.path.join(self.root, place)
        try:
            status = os.stat(path)
        except OSError:
            raise UserError(f'{self._shown(place)}: a link that leads nowhere; remove it') from None
        kind = _kind_of(status.st_mode)
        if (kind == 'folder' or is_picture or place in (LABELS, SYNSETS)) and not self._holds(path):
            raise UserError(
                f'{self._shown(place)}: a link to {shown(os.path.realpath(path))}, which lies '
                'outside the data; put the files there, or set data.dir to a folder that holds both'
            )
        return kind, status.st_ino

    def _holds(self, path: str) -> bool:
        """Whether a path, all links followed, lies in the data."""
        real = os.path.realpath(path)
        return any(real == top or real.startswith(top.rstrip('/') + '/') for top in self._within)

    def has(self, name: str) -> bool:
        """Whether the root holds labels.txt, synsets.txt or the devkit's labels."""
        return name in self._files

    def below(self, folder: str) -> list[str]:
        """The pictures at any depth of a folder of the root ('' = those of the root), by name."""
        return self._by_folder.get(folder, [])

    def find(self, name: str, where: str) -> str:
        """The path of the file that a line names, below the root. Raises UserError."""
        places = [posixpath.normpath(name)]
        if not places[0].startswith(('/', '../')):
            places.append(f'images/{places[0]}')
        for place in places:
            if place in self.pictures:
                return place
        for place in places:  # hidden, or of another ending: the line names it all the same
            path = os.path.join(self.root, place)
            try:
                status = os.stat(path)
            except (OSError, ValueError):
                continue
            if not self._holds(path):
                raise UserError(f'{where}: {shown(name)} lies outside {self.root}')
            if _kind_of(status.st_mode) == 'file':
                self.pictures[place] = status.st_ino
                self._others.discard(place)
                return place
        raise UserError(f'{where}: no such picture: {shown(name)}')

    def leave_out(self, why: str, names: list[str]) -> None:
        """Takes note of pictures that are not used."""
        self._left_out.append(f'left out, {why}: {count(len(names), "picture")} ({few(names)})')

    def remarks(self) -> list[str]:
        """What is not used, by kind."""
        if not self._others:
            return self._left_out
        kinds: dict[str, list[str]] = collections.defaultdict(list)
        for name in sorted(self._others):
            kinds[posixpath.splitext(name)[1].lower() or 'without ending'].append(name)
        ordered = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
        parts = [f'{len(names):,} {shown(kind)} ({few(names)})' for kind, names in ordered]
        more = f', {len(parts) - KINDS:,} other endings' if len(parts) > KINDS else ''
        files = count(len(self._others), 'file')
        line = f'left out, no pictures by their endings: {files}: {", ".join(parts[:KINDS])}{more}'
        return [*self._left_out, line]

    def require_distinct(self, names: list[str]) -> None:
        """Raises UserError where two of these are one file, by links of any kind."""
        inodes = np.fromiter((self.pictures[name] for name in names), np.uint64, len(names))
        order = np.argsort(inodes, kind='stable')
        same = inodes[order][1:] == inodes[order][:-1]
        first: dict[tuple[int, int], str] = {}
        for index in order[np.append(same, False) | np.append(False, same)]:
            status = os.stat(os.path.join(self.root, names[index]))  # the device may differ
            before = first.setdefault((status.st_dev, status.st_ino), names[index])
            if before != names[index]:
                raise UserError(
                    f'{self.root}: {shown(before)} and {shown(names[index])} are one file, by a '
                    'link: each picture counts once; remove one, or make it a copy'
                )

    def _shown(self, place: str) -> str:
        return shown(os.path.join(self.root, place))


def _kind_of(mode: int) -> str:
    return 'file' if stat.S_ISREG(mode) else 'folder' if stat.S_ISDIR(mode) else 'special'
