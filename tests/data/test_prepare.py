"""Preparation from small archives and folders of the true layout, built from real pictures."""

import hashlib
import importlib.util
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

from cnn_arch.data import prepare, progress, sources, synsets
from cnn_arch.data.preparation import archives, ilsvrc, records, verification
from cnn_arch.errors import UserError
from configs import base
from tests.shared import ROOT

TRAIN, VAL = 'ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'
# Names that are CMYK and PNG in ILSVRC-2012: tfds converts these files and no others.
CMYK, PNG = 'n01739381_1309.JPEG', 'n02105855_2933.JPEG'


def real_jpegs(count):
    """The smallest pictures of the sample; where that is absent, parts of a photograph."""
    folder = ROOT.parent / 'shared' / 'data'
    folder = pathlib.Path(os.environ.get('CNN_ARCH_TEST_DATA', folder)) / 'ilsvrc_sample'
    files = sorted(folder.glob('n*/*.JPEG'), key=lambda path: path.stat().st_size)
    if len(files) >= count:
        return [path.read_bytes() for path in files[:count]]
    picture, jpegs = Image.fromarray(sklearn.datasets.load_sample_image('china.jpg')), []
    for k in range(count):
        out = io.BytesIO()
        picture.crop((10 * k, 5 * k, 10 * k + 120 + k, 5 * k + 90)).save(out, 'JPEG', quality=90)
        jpegs.append(out.getvalue())
    return jpegs


def as_cmyk(jpeg):
    out = io.BytesIO()
    Image.open(io.BytesIO(jpeg)).convert('CMYK').save(out, 'JPEG', quality=95)
    return out.getvalue()


def as_png(jpeg):
    out = io.BytesIO()
    Image.open(io.BytesIO(jpeg)).save(out, 'PNG')
    return out.getvalue()


@pytest.fixture(scope='module')
def content():
    """{split: {file: bytes}}: 4 classes with one CMYK and one PNG picture, 7 to validate."""
    jpegs = real_jpegs(21)
    train = {}
    for wnid in ('n01440764', 'n01739381', 'n02105855', 'n15075141'):
        for number in (10, 18, 293):
            train[f'{wnid}_{number}.JPEG'] = jpegs.pop()
    train[CMYK], train[PNG] = as_cmyk(jpegs.pop()), as_png(jpegs.pop())
    validation = {f'ILSVRC2012_val_{k:08d}.JPEG': jpegs.pop() for k in range(1, 8)}
    return {'train': train, 'validation': validation}


def add(tar, name, data, **fields):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in fields.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(data))


def inner_tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as tar:
        for name, data in files.items():
            add(tar, name, data)
    return buffer.getvalue()


def by_class(train):
    classes = {}
    for name, data in train.items():
        classes.setdefault(name.split('_')[0], {})[name] = data
    return classes


@pytest.fixture
def manual(tmp_path, content):
    """A folder with the two archives, of the true layout."""
    folder = tmp_path / 'manual'
    folder.mkdir()
    with tarfile.open(folder / TRAIN, 'w') as tar:
        for wnid, files in by_class(content['train']).items():
            add(tar, f'{wnid}.tar', inner_tar(files))
    with tarfile.open(folder / VAL, 'w') as tar:
        # Not in order of their numbers, as in the published archive.
        for name, data in reversed(content['validation'].items()):
            add(tar, name, data)
    return folder


@pytest.fixture
def tree(tmp_path, content):
    """The same as train/<wnid>/*.JPEG and a flat val/."""
    root = tmp_path / 'tree'
    for name, data in content['train'].items():
        folder = root / 'train' / name.split('_')[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (root / 'val').mkdir()
    for name, data in content['validation'].items():
        (root / 'val' / name).write_bytes(data)
    return root


def run(*args):
    return prepare.main([str(arg) for arg in args])


def from_tree(tree, out, *more):
    return run('imagenet2012', f'--from-folder={tree}', f'--out={out}', '--partial', *more)


def read(out, name, split):
    """All records by plain tfds, without decoding."""
    import tensorflow_datasets as tfds

    source = tfds.data_source(
        name, split=split, data_dir=str(out), decoders={'image': tfds.decode.SkipDecoding()}
    )
    return [(r['file_name'].decode(), int(r['label']), r['image']) for r in source]


def error_of(capsys):
    """The one line that the command said is wrong."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error:')]
    assert len(lines) == 1
    return lines[0]


def nothing_kept(out):
    return not list(out.rglob('*')) if out.exists() else True


# Folders.


def test_imagenet_from_a_folder(tree, tmp_path, content, capsys):
    out = tmp_path / 'out'
    assert from_tree(tree, out) == 0
    labels = ilsvrc.published_labels()
    classes = synsets.ilsvrc_2012()
    for split, files in content.items():
        found = read(out, 'imagenet2012', split)
        # tfds' order: by the MD5 of split and name.
        order = sorted(files, key=lambda name: hashlib.md5((split + name).encode()).digest())
        assert [name for name, _, _ in found] == order
        for name, label, image in found:
            wnid = name.split('_')[0] if split == 'train' else labels[int(name[15:23]) - 1]
            assert classes[label] == wnid
            if name not in (CMYK, PNG):
                assert image == files[name]

    text = capsys.readouterr().out
    assert 'train: 14 images of 4 classes (3 to 4 each)' in text
    assert 'validation: 7 images of 7 classes' in text
    assert f'converted to RGB JPEG: 2 ({CMYK}, {PNG})' in text
    assert 'unreadable: none' in text
    assert f'--config.data.source=imagenet2012 --config.data.dir={out}' in text


def test_what_is_prepared_is_what_training_opens(tree, tmp_path, content):
    out = tmp_path / 'out'
    assert from_tree(tree, out) == 0
    config = base.get_config().data
    config.source, config.dir = 'imagenet2012', str(out)
    for split, whole in (('train', 'train'), ('eval', 'validation')):
        source = sources.open_source(config, split)
        assert (len(source), source.num_classes) == (len(content[whole]), 1000)
        example = source[3]
        assert isinstance(example.image, bytes)
        assert example.key in content[whole]


def test_conversions_keep_the_picture(tree, tmp_path, content):
    out = tmp_path / 'out'
    assert from_tree(tree, out) == 0
    found = {name: image for name, _, image in read(out, 'imagenet2012', 'train')}
    for name in (CMYK, PNG):
        picture = Image.open(io.BytesIO(found[name]))
        assert (picture.format, picture.mode) == ('JPEG', 'RGB')
        before = Image.open(io.BytesIO(content['train'][name])).convert('RGB')
        assert np.abs(np.asarray(picture, float) - np.asarray(before, float)).mean() < 2


def test_validation_in_class_folders(tree, tmp_path):
    labels = ilsvrc.published_labels()
    for path in sorted((tree / 'val').iterdir()):
        folder = tree / 'val' / labels[int(path.name[15:23]) - 1]
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    (tree / 'val').rename(tree / 'validation')
    assert from_tree(tree, tmp_path / 'a') == 0
    for name, label, _ in read(tmp_path / 'a', 'imagenet2012', 'validation'):
        assert synsets.ilsvrc_2012()[label] == labels[int(name[15:23]) - 1]


def test_a_validation_image_in_the_wrong_class_folder(tree, tmp_path, capsys):
    folder = tree / 'val' / 'n01440764'
    folder.mkdir()
    for path in (tree / 'val').glob('*.JPEG'):
        path.rename(folder / path.name)
    assert from_tree(tree, tmp_path / 'out') == 2
    assert 'its class is ' in error_of(capsys)
    assert nothing_kept(tmp_path / 'out')


def test_a_part_of_imagenet_must_be_asked_for(tree, tmp_path, capsys):
    assert run('imagenet2012', f'--from-folder={tree}', f'--out={tmp_path / "out"}') == 2
    assert '14 images of 4 classes, the training set has 1,281,167 of 1,000' in error_of(capsys)
    assert nothing_kept(tmp_path / 'out')


def test_a_data_set_of_ones_own(tmp_path):
    jpegs = real_jpegs(6)
    root, out = tmp_path / 'flowers', tmp_path / 'out'
    files = {
        'train/rose/a.jpg': jpegs[0], 'train/rose/b.PNG': as_png(jpegs[1]),
        'train/aster/a.jpg': as_cmyk(jpegs[2]), 'val/rose/a.jpeg': jpegs[3],
        'test/aster/z.jpg': jpegs[4],
    }  # fmt: skip
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / 'train' / 'rose' / 'Thumbs.db').write_bytes(b'no picture')
    (root / 'train' / 'rose' / '._a.jpg').write_bytes(b'what other systems leave')
    assert run('flowers', f'--from-folder={root}', f'--out={out}') == 0

    found = {name: (label, image) for name, label, image in read(out, 'flowers', 'train')}
    assert {name: label for name, (label, _) in found.items()} == {
        'aster/a.jpg': 0, 'rose/a.jpg': 1, 'rose/b.PNG': 1,
    }  # fmt: skip
    assert found['rose/b.PNG'][1] == files['train/rose/b.PNG']  # nothing is lost
    assert Image.open(io.BytesIO(found['aster/a.jpg'][1])).mode == 'RGB'
    assert [r[:2] for r in read(out, 'flowers', 'validation')] == [('rose/a.jpeg', 1)]
    assert [r[:2] for r in read(out, 'flowers', 'test')] == [('aster/z.jpg', 0)]
    config = base.get_config().data
    config.source, config.dir = 'flowers', str(out)
    assert sources.open_source(config, 'train').classes == ('aster', 'rose')


def test_class_folders_alone_are_a_training_set(tmp_path, content):
    root, out = tmp_path / 'birds', tmp_path / 'out'
    for wnid, files in by_class(content['train']).items():
        (root / wnid).mkdir(parents=True)
        for name, data in files.items():
            (root / wnid / name).write_bytes(data)
    assert run('birds', f'--from-folder={root}', f'--out={out}') == 0
    assert {label for _, label, _ in read(out, 'birds', 'train')} == {0, 1, 2, 3}  # its own labels


def test_many_shards(tree, tmp_path, content, monkeypatch):
    """The shards' borders lose no record and change no order."""
    from tensorflow_datasets.core.utils import shard_utils

    assert from_tree(tree, tmp_path / 'one') == 0
    monkeypatch.setattr(shard_utils.ShardConfig, 'min_shard_size', 1 << 12)
    assert from_tree(tree, tmp_path / 'many') == 0
    for split in content:
        shards = list((tmp_path / 'many').rglob(f'*-{split}.array_record-*'))
        assert len(shards) in (2, 4, 8)
        one, many = (read(tmp_path / n, 'imagenet2012', split) for n in ('one', 'many'))
        assert one == many


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('mnist', 'name of another'), ('cifar10', 'name of another'), ('folder', 'name of another'),
        ('Flowers', 'small letters'), ('../up', 'small letters'),
    ],
)  # fmt: skip
def test_names_that_cannot_be(name, message, tree, tmp_path, capsys):
    assert run(name, f'--from-folder={tree}', f'--out={tmp_path / "out"}') == 2
    assert message in error_of(capsys)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda t: shutil.rmtree(t / 'val'), 'no folder val or validation'),
        (lambda t: (next((t / 'train').iterdir()) / 'more').mkdir(),
         'more: a folder within a class folder'),
        (lambda t: shutil.rmtree(t / 'train'), 'no folder train'),
        (lambda t: (t / 'train' / 'n01440764').rename(t / 'train' / 'tench'),
         "train has classes that ILSVRC-2012 has not: 1 (tench)"),
        (lambda t: (t / 'train' / 'n02105857').mkdir(), 'no pictures'),
        (lambda t: (t / 'val' / 'cat.JPEG').write_bytes(b'?'), 'labels go by the number'),
        (lambda t: (t / 'val' / 'ILSVRC2012_val_00050001.JPEG').write_bytes(b'?'),
         'labels go by the number'),
        (lambda t: shutil.copy(t / 'train' / 'n01440764' / 'n01440764_10.JPEG',
                               t / 'train' / 'n15075141'), 'files of the same name'),
    ],
)  # fmt: skip
def test_folders_that_cannot_be(change, message, tree, tmp_path, capsys):
    change(tree)
    assert from_tree(tree, tmp_path / 'out') == 2
    assert message in error_of(capsys)
    assert nothing_kept(tmp_path / 'out')


@pytest.mark.parametrize(
    'args',
    [
        ['imagenet2012', '--out=x'],
        ['imagenet2012', '--out=x', '--manual-dir=a', '--from-folder=b'],
        ['imagenet2012', '--out=x', '--manual-dir=absent'],
        ['imagenet2012', '--out=x', '--from-folder=absent'],
        ['imagenet2012', '--out=x', '--manual-dir=.', '--val-labels=y'],
        ['imagenet2012', '--out=x', '--manual-dir=.', '--partial', '--checksums'],
        ['imagenet2012', '--out=x', '--from-folder=.', '--checksums'],
        ['flowers', '--out=x', '--manual-dir=.'],
        ['flowers', '--out=x', '--from-folder=.', '--partial'],
        ['imagenet2012', '--from-folder=.'],
        ['imagenet2012', '--out=x', '--from-folder=.', '--threads=many'],
    ],
)
def test_wrong_command_lines(args, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*args) == 2
    error_of(capsys)
    assert nothing_kept(tmp_path / 'x')


# Labels of the validation set.


def test_the_devkits_labels(tmp_path):
    """Numbers in an order of their own: each must stand for one class throughout."""
    published = ilsvrc.published_labels()
    assert len(published) == 50_000
    shuffled = np.random.default_rng(0).permutation(synsets.ilsvrc_2012())
    number = {wnid: k for k, wnid in enumerate(shuffled, 1)}
    lines = [str(number[wnid]) for wnid in published]
    path = tmp_path / 'ILSVRC2012_validation_ground_truth.txt'
    path.write_text('\n'.join(lines) + '\n')
    assert ilsvrc.validation_labels(path) == published

    lines[4321] = str(int(lines[4321]) % 1000 + 1)
    path.write_text('\n'.join(lines))
    with pytest.raises(UserError, match=r'line \d+: class \d+ cannot be n\d+ .* not the devkit'):
        ilsvrc.validation_labels(path)
    lines[4321] = '1001'
    path.write_text('\n'.join(lines))
    with pytest.raises(UserError, match="line 4322: '1001' is no WordNet id"):
        ilsvrc.validation_labels(path)
    path.write_text('\n'.join(lines[:-1]))
    with pytest.raises(UserError, match='49,999 labels, there are 50,000 images'):
        ilsvrc.validation_labels(path)
    with pytest.raises(UserError, match='no such file'):
        ilsvrc.validation_labels(tmp_path / 'absent.txt')


def test_labels_of_a_file_are_used(tree, tmp_path):
    labels = list(reversed(ilsvrc.published_labels()))
    path = tmp_path / 'labels.txt'
    path.write_text('\n'.join(labels))
    assert from_tree(tree, tmp_path / 'out', f'--val-labels={path}') == 0
    for name, label, _ in read(tmp_path / 'out', 'imagenet2012', 'validation'):
        assert synsets.ilsvrc_2012()[label] == labels[int(name[15:23]) - 1]


# Runs that fail leave nothing.


def damaged(jpeg):
    """The first half of its bytes, and a few that look like the end of a JPEG."""
    return jpeg[: len(jpeg) // 2]


def test_unreadable_images(tree, tmp_path, capsys):
    out = tmp_path / 'out'
    for name, data in (('n01440764_77.JPEG', None), ('n01440764_78.JPEG', b'<html>not found')):
        path = tree / 'train' / 'n01440764' / name
        path.write_bytes(damaged(real_jpegs(1)[0]) if data is None else data)
    assert from_tree(tree, out) == 2
    err = capsys.readouterr().err
    assert 'unreadable: train/n01440764_77.JPEG: damaged picture' in err
    assert 'unreadable: train/n01440764_78.JPEG: not a picture of a known format' in err
    assert 'error: 2 unreadable images, nothing was kept' in err
    assert nothing_kept(out)

    assert from_tree(tree, out, '--keep-unreadable') == 0
    assert '    train/n01440764_77.JPEG: damaged picture' in capsys.readouterr().out
    assert len(read(out, 'imagenet2012', 'train')) == 16


def test_too_little_disk(tree, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=1_000_000))
    assert from_tree(tree, tmp_path / 'out') == 2
    assert '1.0 MB free, 67' in error_of(capsys)
    assert nothing_kept(tmp_path / 'out')


def test_a_disk_that_fills_up(tree, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)

    def write(staging, *args):
        (staging / 'half').write_bytes(b'something')
        monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=4096))
        raise RuntimeError('RESOURCE_EXHAUSTED')

    monkeypatch.setattr(records, 'write', write)
    assert from_tree(tree, tmp_path / 'out') == 2
    assert 'is full: nothing was kept' in error_of(capsys)
    assert nothing_kept(tmp_path / 'out')


def test_a_killed_run_is_begun_again(tree, tmp_path, capsys):
    """SIGKILL while it writes; a second run at the same time; one after it."""
    out, staging = tmp_path / 'out', tmp_path / 'out' / '.preparing-imagenet2012'
    args = ['imagenet2012', f'--from-folder={tree}', f'--out={out}', '--partial']
    code = (
        'import sys, time\n'
        'from cnn_arch.data import prepare\n'
        'from cnn_arch.data.preparation import verification\n'
        'verification.verify = lambda *a: time.sleep(600)\n'
        'prepare.main(sys.argv[1:])\n'
    )
    child = subprocess.Popen([sys.executable, '-c', code, *args], cwd=ROOT,
                             stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not list(staging.rglob('dataset_info.json')):
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.05)
        assert run(*args) == 2
        assert 'another run is preparing imagenet2012' in error_of(capsys)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not (out / 'imagenet2012').exists()
    assert list(staging.iterdir())

    assert run(*args) == 0
    assert len(read(out, 'imagenet2012', 'train')) == 14
    assert not staging.exists()


@pytest.mark.parametrize('wrong', ['lost', 'label', 'split'])
def test_what_was_written_is_compared(wrong, tree, tmp_path, monkeypatch, capsys):
    write = records.write

    def falsified(staging, name, version, splits, classes, jpeg, threads):
        if wrong == 'lost':
            splits = {**splits, 'train': splits['train'][1:]}
        elif wrong == 'label':
            classes = [*classes[1:], classes[0]]
            monkeypatch.setattr(synsets, 'ilsvrc_2012', lambda: classes)
            splits = {
                split: [records.Picture(p.path, classes[0], p.key) for p in pictures]
                for split, pictures in splits.items()
            }
        else:
            splits = {'train': splits['train']}
        return write(staging, name, version, splits, classes, jpeg, threads)

    monkeypatch.setattr(records, 'write', falsified)
    assert from_tree(tree, tmp_path / 'out') == 2
    assert 'nothing was kept' in error_of(capsys)
    assert nothing_kept(tmp_path / 'out')


def test_a_data_set_that_is_there(tree, tmp_path, capsys):
    out = tmp_path / 'out'
    assert from_tree(tree, out) == 0
    first = capsys.readouterr().out
    shutil.rmtree(tree / 'val')  # it is not looked at again
    assert from_tree(tree, out) == 0
    assert capsys.readouterr().out == first

    # Prepared by somebody else: verified before it is trusted.
    folder = out / 'imagenet2012' / '5.1.0'
    (folder / verification.REPORT).unlink()
    assert run('imagenet2012', f'--from-folder={tree}', f'--out={out}') == 2
    assert '14 images of 4 classes' in error_of(capsys)
    assert from_tree(tree, out) == 0
    assert 'from another preparation' in capsys.readouterr().out
    assert json.loads((folder / verification.REPORT).read_text())['splits']['train']['images'] == 14


# Archives: what is checked before TensorFlow is started.


def test_the_archives_contents(manual, content):
    train = ilsvrc.scan('train', manual / TRAIN, [CMYK, PNG, 'n07583066_647.JPEG'])
    assert dict(train.classes) == {k: len(v) for k, v in by_class(content['train']).items()}
    assert train.bytes == sum(map(len, content['train'].values()))
    assert train.names == {CMYK, PNG}
    validation = ilsvrc.scan('validation', manual / VAL)
    assert sorted(validation.classes.elements()) == sorted(ilsvrc.published_labels()[:7])
    assert validation.bytes == sum(map(len, content['validation'].values()))


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_no_truncated_archive_passes(split, manual):
    """Cut anywhere before its end mark: inside headers, inside data, between two members."""
    path = manual / ilsvrc.ARCHIVES[split].name
    whole = path.read_bytes()
    end = len(whole.rstrip(b'\0'))
    with tarfile.open(path) as tar:
        borders = [m.offset for m in tar] + [m.offset_data for m in tar]
    cuts = {*np.linspace(1, end, 40, dtype=int), *borders, *(b + 100 for b in borders)}
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r'truncated|not a tar file|is missing'):
            ilsvrc.scan(split, ilsvrc.check_archive(split, manual, True, False))
    path.write_bytes(whole)
    ilsvrc.scan(split, path)


def test_another_size_than_the_published(manual):
    with pytest.raises(UserError, match=r'img_val.tar has [\d,]+ bytes, the published one 6,744,9'):
        ilsvrc.check_archive('validation', manual, partial=False, checksum=False)


def test_checksums(manual, monkeypatch):
    path = manual / VAL
    data = path.read_bytes()
    archive = ilsvrc.Archive(VAL, 'validation set', 7, len(data), hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(ilsvrc.ARCHIVES, 'validation', archive)
    assert ilsvrc.check_archive('validation', manual, False, True) == path
    path.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])  # one bit
    with pytest.raises(UserError, match=r'is not the published .* damaged on the way'):
        ilsvrc.check_archive('validation', manual, False, True)


def test_the_published_checksums_are_those_of_tfds():
    import tensorflow_datasets as tfds

    table = tfds.core.tfds_path('datasets/imagenet2012/checksums.tsv').read_text()
    for archive in ilsvrc.ARCHIVES.values():
        assert f'{archive.name}\t{archive.size}\t{archive.sha256}' in table.replace(' ', '\t')


def test_archives_exchanged(manual):
    (manual / TRAIN).rename(manual / 'x')
    (manual / VAL).rename(manual / TRAIN)
    (manual / 'x').rename(manual / VAL)
    with pytest.raises(UserError, match='that is the validation set, not the training set'):
        ilsvrc.check_archive('train', manual, False, False)
    with pytest.raises(UserError, match='that is the training set, not the validation set'):
        ilsvrc.check_archive('validation', manual, False, False)


def test_missing_and_foreign_files(manual):
    (manual / TRAIN).write_bytes(b'<html>please register</html>')
    with pytest.raises(UserError, match='is not a tar file'):
        ilsvrc.check_archive('train', manual, True, False)
    (manual / VAL).unlink()
    with pytest.raises(UserError, match=r'img_val\.tar is missing: get it from'):
        ilsvrc.check_archive('validation', manual, True, False)


@pytest.mark.parametrize(
    ('name', 'fields', 'message'),
    [
        ('../n01484850.tar', {}, 'would leave its folder'),
        ('/etc/n01484850.tar', {}, 'would leave its folder'),
        ('a/../../n01484850.tar', {}, 'would leave its folder'),
        ('n01484850.tar', {'type': tarfile.SYMTYPE, 'linkname': '/etc/passwd'}, 'not a plain file'),
        ('n01484850.tar', {'type': tarfile.LNKTYPE, 'linkname': 'x'}, 'not a plain file'),
        ('n01484850.tar', {'type': tarfile.CHRTYPE}, 'not a plain file'),
        ('n01484850', {'type': tarfile.DIRTYPE}, 'not a plain file'),
        ('readme.txt', {}, 'unexpected member readme.txt'),
        ('n99999999.tar', {}, 'unexpected member n99999999.tar'),
        ('n01440764.tar', {}, 'unexpected member n01440764.tar'),  # twice
        ('n01484850.tar', {}, 'n01484850.tar is not a tar file'),
    ],
)  # fmt: skip
def test_members_that_do_not_belong_into_the_training_set(name, fields, message, manual):
    with tarfile.open(manual / TRAIN, 'a') as tar:
        add(tar, name, b'' if fields else b'x' * 600, **fields)
    with pytest.raises(UserError, match=message):
        ilsvrc.scan('train', manual / TRAIN)


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['../../n01484850_1.JPEG'], 'n01484850.tar: member .* would leave its folder'),
        (['n01440764_1.JPEG'], 'n01484850.tar: unexpected member n01440764_1.JPEG'),
        (['n01484850_1.JPEG', 'n01484850_1.JPEG'], 'unexpected member n01484850_1.JPEG'),
        ([], 'no picture inside'),
    ],
)
def test_members_that_do_not_belong_into_a_class(names, message, manual):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as tar:
        for name in names:
            add(tar, name, b'x')
    with tarfile.open(manual / TRAIN, 'a') as tar:
        add(tar, 'n01484850.tar', buffer.getvalue())
    with pytest.raises(UserError, match=message):
        ilsvrc.scan('train', manual / TRAIN)


@pytest.mark.parametrize(
    ('name', 'fields', 'message'),
    [
        ('val', {'type': tarfile.DIRTYPE}, 'not a plain file'),
        ('val/ILSVRC2012_val_00000008.JPEG', {}, 'unexpected member val/ILSVRC2012'),
        ('../ILSVRC2012_val_00000008.JPEG', {}, 'would leave its folder'),
        ('ILSVRC2012_val_00000009.JPEG', {}, 'val_00000008.JPEG is missing or twice'),
        ('ILSVRC2012_val_00000004.JPEG', {}, 'val_00000005.JPEG is missing or twice'),
        ('ILSVRC2012_val_00000000.JPEG', {}, 'val_00000001.JPEG is missing or twice'),
    ],
)
def test_members_that_would_shift_the_labels(name, fields, message, manual):
    """tfds labels the sorted names one after the other."""
    with tarfile.open(manual / VAL, 'a') as tar:
        add(tar, name, b'', **fields)
    with pytest.raises(UserError, match=message):
        ilsvrc.scan('validation', manual / VAL)


def test_without_tensorflow(manual, tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if name == 'tensorflow' else find(name)
    )
    out = tmp_path / 'out'
    assert run('imagenet2012', f'--manual-dir={manual}', f'--out={out}', '--partial') == 2
    assert 'missing: pip install -r requirements-prepare.txt' in error_of(capsys)
    assert nothing_kept(out)


def test_too_few_open_files(monkeypatch):
    import resource

    monkeypatch.setattr(resource, 'getrlimit', lambda _: (256, 1024))
    with pytest.raises(UserError, match='only 1024 files may be open'):
        archives.allow_open_files()
    limits = []
    monkeypatch.setattr(resource, 'getrlimit', lambda _: (1024, 1 << 19))
    monkeypatch.setattr(resource, 'setrlimit', lambda _, pair: limits.append(pair))
    archives.allow_open_files()
    assert limits == [(4096, 1 << 19)]


# Archives with TensorFlow, in the environment that is made for it.


def python_with_tensorflow():
    """An interpreter that can import TensorFlow; skips where there is none."""
    candidates = [os.environ.get('CNN_ARCH_PREPARE_PYTHON'), ROOT / '.venv-prepare/bin/python']
    for path in candidates:
        if path and pathlib.Path(path).exists():
            return str(path)
    if importlib.util.find_spec('tensorflow'):
        return sys.executable
    pytest.skip(
        'no environment with TensorFlow: make .venv-prepare with requirements-prepare.txt, or set '
        'CNN_ARCH_PREPARE_PYTHON'
    )


@pytest.mark.slow
def test_imagenet_from_archives(manual, tree, tmp_path, content):
    """tfds' builder; the same records, in the same order, as from the folder without TensorFlow."""
    python, out = python_with_tensorflow(), tmp_path / 'tars'
    (manual / 'ILSVRC2012_img_test.tar').write_bytes(b'not asked for')
    command = [python, '-m', 'cnn_arch.data.prepare', 'imagenet2012', f'--manual-dir={manual}',
               f'--out={out}', '--partial']  # fmt: skip
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f'converted to RGB JPEG: 2 ({CMYK}, {PNG})' in result.stdout
    assert 'writing train: 14/14 images' in result.stderr
    assert not (out / '.preparing-imagenet2012').exists()

    assert from_tree(tree, tmp_path / 'folder') == 0
    for split, files in content.items():
        ours, theirs = (read(tmp_path / n, 'imagenet2012', split) for n in ('folder', 'tars'))
        assert [r[:2] for r in ours] == [r[:2] for r in theirs]
        for (name, _, a), (_, _, b) in zip(ours, theirs, strict=True):
            if name in (CMYK, PNG):  # converted by Pillow here, by TensorFlow there
                first, second = (np.asarray(Image.open(io.BytesIO(x)), float) for x in (a, b))
                assert np.abs(first - second).mean() < 3
            else:
                assert a == b == files[name]
    shards = [sorted(p.name for p in (tmp_path / n).rglob('*array_record*'))
              for n in ('folder', 'tars')]  # fmt: skip
    assert shards[0] == shards[1]


def test_one_version_of_what_both_environments_use():
    def pins(name):
        lines = (ROOT / name).read_text().splitlines()
        pairs = [line.split(';')[0].split('==') for line in lines if re.match(r'\w.*==', line)]
        return {package.strip(): version.strip() for package, version in pairs}

    reading, preparing = pins('requirements.txt'), pins('requirements-prepare.txt')
    shared = reading.keys() & preparing.keys()
    assert shared >= {'tensorflow-datasets', 'array_record', 'pillow', 'simplejpeg'}
    assert {name: reading[name] for name in shared} == {name: preparing[name] for name in shared}


@pytest.mark.slow
def test_training_reads_what_was_prepared(tree, tmp_path):
    """From archives' content to a finished evaluation by `configs/vgg.py:D`."""
    out, workdir = tmp_path / 'out', tmp_path / 'run'
    assert from_tree(tree, out) == 0
    command = [sys.executable, 'train.py', '--config=configs/vgg.py:D', f'--workdir={workdir}',
               '--config.data.source=imagenet2012', f'--config.data.dir={out}',
               '--config.train.batch_size=2', '--config.train.steps=1',
               '--config.eval.protocol=center', '--config.eval.batch_size=2']  # fmt: skip
    environment = {**os.environ, 'XLA_FLAGS': ''}  # one device
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((workdir / 'result.json').read_text())
    assert (result['step'], str(result['images']).split()[0]) == (1, '7')
    shutil.rmtree(workdir)  # a gigabyte of checkpoint


@pytest.mark.slow
def test_an_unreadable_image_in_an_archive(manual, tmp_path, content):
    python, out = python_with_tensorflow(), tmp_path / 'tars'
    jpeg = next(iter(content['train'].values()))
    with tarfile.open(manual / TRAIN, 'a') as tar:
        add(tar, 'n01484850.tar', inner_tar({'n01484850_1.JPEG': damaged(jpeg)}))
    command = [python, '-m', 'cnn_arch.data.prepare', 'imagenet2012', f'--manual-dir={manual}',
               f'--out={out}', '--partial']  # fmt: skip
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert 'unreadable: train/n01484850_1.JPEG: damaged picture' in result.stderr
    assert nothing_kept(out)


# Progress.


def test_progress():
    report = progress.Progress('reading', 1000)
    assert report.line() == 'reading: 0/1,000 images'
    report.add(250)
    start = report._start
    assert report.line(start + 10) == 'reading: 250/1,000 images, 25/s, 30 s left'
    assert report.line(start + 5000).endswith('0/s, 4 h 10 min left')
    report.add(750)
    assert report.line(start + 600) == 'reading: 1,000/1,000 images in 10 min'


def test_progress_in_a_log(capsys, monkeypatch):
    clock = iter(np.arange(0.0, 1e6, 10.0))
    monkeypatch.setattr(time, 'monotonic', lambda: next(clock))
    with progress.Progress('reading', 9) as report:
        assert list(report.over('abcdefghi')) == list('abcdefghi')
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ['3/9', '6/9', '9/9', '9/9']


def test_sizes():
    assert [progress.size(n) for n in (512, 3_100_000, 137_900_000_000)] == [
        '512 bytes', '3.1 MB', '137.9 GB',
    ]  # fmt: skip
