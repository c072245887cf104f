"""The command: what it writes, and its errors in one line."""

import csv
import html
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cnn_arch.deconvnet import __main__ as command
from cnn_arch.errors import UserError
from cnn_arch.weights import importer
from tests.shared import ROOT
from tests.test_eval_cli import make_run

VGG = ['--config=configs/demo.py:vgg_fixed', '--config.data.source=folder',
       '--config.eval.batch_size=8', '--config.model.num_classes=3']  # fmt: skip
LENET = ['--config=configs/lenet.py:lenet1', '--config.data.source=digits',
         '--config.eval.batch_size=120']  # fmt: skip


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """A folder with twelve pictures of three classes."""
    folder = tmp_path_factory.mktemp('pictures')
    rng = np.random.default_rng(0)
    for name in ('bird', 'cat', 'dog'):
        (folder / name).mkdir()
        for number in range(4):
            coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3)).astype(np.uint8))
            picture = coarse.resize((90 + 5 * number, 70), Image.Resampling.BICUBIC)
            picture.save(folder / name / f'{name}{number}.JPEG')
    return folder


@pytest.fixture(scope='module')
def vgg(tmp_path_factory):
    folder = tmp_path_factory.mktemp('vgg') / 'run'
    make_run(folder, VGG, 3, 5)
    return folder


@pytest.fixture(scope='module')
def lenet(tmp_path_factory):
    folder = tmp_path_factory.mktemp('lenet') / 'run'
    make_run(folder, LENET, 5)
    return folder


def test_writes_a_gallery_that_opens_from_disk(vgg, pictures, tmp_path, capsys):
    out = tmp_path / 'gallery'
    words = [*VGG, f'--workdir={vgg}', f'--config.data.dir={pictures}', f'--out={out}',
             '--layers=conv1_1,conv2_1', '--maps=0,2-4']  # fmt: skip
    assert command.main(words) == 0
    assert str(out / 'index.html') in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == [
        'conv1_1.png', 'conv2_1.png', 'index.html', 'overview.jpg', 'top_nine.csv',
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == [out]  # nothing half-written beside it
    page = (out / 'index.html').read_text()
    for source in re.findall(r'src="([^"]+)"', page):
        with Image.open(out / source) as image:
            assert image.size > (100, 100)
    assert 'over 12 images' in page
    assert 'receptive field' in page
    with (out / 'top_nine.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 9
    assert {row['map'] for row in rows} == {'0', '2', '3', '4'}
    values = [float(row['activation']) for row in rows]
    assert (np.diff(np.reshape(values, (8, 9))) <= 0).all()
    for layer, number in (('conv1_1', '0'), ('conv2_1', '4')):
        images = [r['image'] for r in rows if (r['layer'], r['map']) == (layer, number)]
        assert len(set(images)) == 9


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--layers=conv9'], r"no layer 'conv9' in vgg: it has conv1_1, .*pool1.*fc6.*logits"),
        (['--maps=3-999'], r'--maps=3-999: conv1_1 has maps 0 to \d+'),
        (['--maps=x'], r'--maps=x: expected numbers and ranges'),
        (['--method=magic'], r'--method=magic: choose one of deconvnet, guided, gradient'),
        (
            ['--config.model.options.fc_units=3'],
            r'a run with model\.options\.fc_units = 128, but the config has 3',
        ),
        (['--step=4'], r'no checkpoint of step 4; there are 3, 5'),
        (['--out={full}'], r'--out=.*: it exists; choose another folder'),
        (['--out={full}/a/b'], r'there is no folder'),
        (['--config.data.dir={few}'], r'folder has 3 images: the top nine .* at least 9'),
    ],
)
def test_mistakes_are_one_line(words, message, vgg, pictures, tmp_path):
    full, few = tmp_path / 'full', tmp_path / 'few'
    full.mkdir()
    (full / 'mine').write_text('')
    for number, name in enumerate(('a', 'b', 'c')):
        (few / name).mkdir(parents=True)
        Image.new('RGB', (70, 70), (number, 9, 9)).save(few / name / 'one.png')
    before = sorted(tmp_path.rglob('*'))
    given = [word.format(full=full, few=few) for word in words]
    base = [*VGG, f'--workdir={vgg}', f'--config.data.dir={pictures}', f'--out={tmp_path / "new"}']
    base = [word for word in base if word.split('=')[0] not in {g.split('=')[0] for g in given}]
    with pytest.raises(UserError, match=message) as error:
        command.main([*base, *given])
    assert '\n' not in str(error.value)
    assert sorted(tmp_path.rglob('*')) == before


def test_a_network_without_switches_shows_gradients(lenet, tmp_path):
    words = [*LENET, f'--workdir={lenet}', f'--out={tmp_path / "out"}']
    with pytest.raises(UserError, match=r'--method=deconvnet has no meaning in lenet1: it averages '
                                        r'.*switches.*use --method=gradient'):  # fmt: skip
        command.main(words)
    assert command.main([*words, '--method=gradient', '--layers=H3']) == 0
    names = {path.stem for path in (tmp_path / 'out').glob('*.png')}
    assert names == {'H3'}


def test_incomplete_weights_serve_as_far_as_they_reach(pictures, tmp_path):
    """A folder of imported weights that lacks all from the second convolution on."""
    source = tmp_path / 'vgg.safetensors'
    config = 'configs/vgg.py:A'
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    save_file({'features.0.weight': rng.standard_normal((64, 3, 3, 3)).astype(np.float32),
               'features.0.bias': np.zeros(64, np.float32)}, source)  # fmt: skip
    weights = tmp_path / 'weights'
    importer.import_weights(source, '', config, [], weights, partial=True)
    words = [f'--config={config}', f'--weights={weights}', f'--out={tmp_path / "out"}',
             '--config.data.source=folder', f'--config.data.dir={pictures}',
             '--config.eval.batch_size=8']  # fmt: skip
    with pytest.raises(UserError, match=r'layer conv2_1 needs weights that are missing here: '
                                        r'there are conv1_1, pool1$'):  # fmt: skip
        command.main([*words, '--layers=conv2_1'])


@pytest.mark.parametrize(
    ('study', 'files', 'captions'),
    [
        ('filters --against=configs/lenet.py:lenet1 --against-dir={lenet}',
         {'filters1', 'filters2', 'spectra'}, ['all 16 filters', 'power that the stride folds']),
        ('occlusion --images=2,5 --square=20 --config.eval.batch_size=200',
         {'occlusion1', 'occlusion2'},
         ['bird2.JPEG', 'a square of 20x20 pixels', 'the probability of the correct class']),
        ('invariance --images=0-1 --layers=conv1_1,fc7', {'invariance'},
         ['2 pictures (bird/bird0.JPEG, bird/bird1.JPEG', 'in conv1_1 and fc7', 'correct class']),
        ('evolution --layers=conv2_1 --maps=0-2', {'conv2_1'},
         ['at steps 3, 5', 'over 12 images', 'projected to pixels by deconvnet']),
    ],
)  # fmt: skip
def test_the_other_studies(study, files, captions, vgg, lenet, pictures, tmp_path):
    out = tmp_path / 'out'
    name, *options = study.format(lenet=lenet).split()
    given = {option.partition('=')[0] for option in options}
    common = [word for word in VGG if word.partition('=')[0] not in given]
    words = [name, *common, f'--workdir={vgg}', *options, f'--config.data.dir={pictures}',
             f'--out={out}']  # fmt: skip
    assert command.main(words) == 0
    assert {path.stem for path in out.glob('*.png')} == files
    page = html.unescape((out / 'index.html').read_text())
    for caption in captions:
        assert caption in page
    for name in files:
        with Image.open(out / f'{name}.png') as image:
            assert len(np.unique(np.asarray(image))) > 10


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['figure2'], r"no study 'figure2': choose one of gallery, filters, occlusion, invariance"),
        (['filters', '--against=configs/vgg.py:A'], r'--against=CONFIG and --against-dir=DIR go'),
        (['occlusion', '--square=64'], r'--square=64: the images have 48 pixels a side'),
        (['occlusion', '--images=12'], r'--images=12: folder has images 0 to 11'),
        (['occlusion', '--layer=conv1'], r"no layer 'conv1' in vgg"),
        (['invariance', '--maps=3'], r'unrecognized arguments: --maps=3'),
    ],
)
def test_mistakes_in_other_studies(words, message, vgg, pictures, tmp_path):
    rest = [*VGG, f'--workdir={vgg}', f'--config.data.dir={pictures}', f'--out={tmp_path / "new"}']
    with pytest.raises(UserError, match=message):
        command.main([*words[:1], *rest, *words[1:]])
    assert not list(tmp_path.iterdir())


def test_as_a_program():
    """A mistake ends with exit code 2 and one line."""
    words = [sys.executable, '-m', 'cnn_arch.deconvnet', *VGG, '--workdir=nowhere', '--out=x']
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert result.stderr.strip() == 'error: no folder nowhere'
