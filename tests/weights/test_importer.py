"""`python -m cnn_arch.weights`: every tensor accounted for, or one line and nothing written.

The files are torchvision's layout of a narrow VGG, written by hand.
"""

import dataclasses
import json
import os
import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import cnn_arch.mesh as meshes
import eval as eval_command
from cnn_arch import commands, configuration, models
from cnn_arch.errors import UserError
from cnn_arch.weights import __main__ as weights_command
from cnn_arch.weights import importer, initial, public, trained
from tests.evaluation.common import random_variables
from tests.test_owner import written
from tests.weights import common

LAYERS = [4, 'M', 8, 'M', 8, 8, 'M', 'M', 'M']
CONVOLUTIONS = {'features.0': (4, 3), 'features.3': (8, 4), 'features.6': (8, 8),
                'features.8': (8, 8)}  # fmt: skip
CLASSIFIER = {'classifier.0': (6, 8 * 49), 'classifier.3': (6, 6), 'classifier.6': (1000, 6)}

Arrays = dict[str, np.ndarray]


@pytest.fixture
def arrays() -> Arrays:
    rng = np.random.default_rng(0)
    result = {}
    for name, shape in {**CONVOLUTIONS, **CLASSIFIER}.items():
        full = (*shape, 3, 3) if name in CONVOLUTIONS else shape
        result[f'{name}.weight'] = 0.1 * rng.standard_normal(full, np.float32)
        result[f'{name}.bias'] = 0.1 * rng.standard_normal(shape[:1], np.float32)
    return result


@pytest.fixture
def config(tmp_path: pathlib.Path) -> str:
    return common.small_config(tmp_path, 'vgg', 'A', layers=LAYERS, fc_units=6)


@pytest.fixture
def convert(
    tmp_path: pathlib.Path, config: str, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs the command as a shell does: (exit code, its line of error)."""

    def run(
        source: Arrays | pathlib.Path | str, *words: str, config: str = config
    ) -> tuple[int, str]:
        if isinstance(source, dict):
            path = tmp_path / 'source.safetensors'
            safetensors.numpy.save_file(source, path)
            source = path
        before = {*tmp_path.rglob('*')}
        argv = [str(source), f'--config={config}', f'--to={tmp_path / "to" / "weights"}', *words]
        with pytest.raises(SystemExit) as ended:
            commands.run(weights_command.main, argv)
        out, error = capsys.readouterr()
        if ended.value.code:
            assert len(error.strip().splitlines()) == 1, error
            assert error.startswith('error: ')
            # Nothing was written, not even in part.
            new = {*tmp_path.rglob('*')} - before
            assert new <= {public.folder()}, new
        else:
            program = '-m cnn_arch.deconvnet' if 'tensors are missing' in out else 'eval.py'
            assert f'next: python {program} --config=' in out
        return ended.value.code or 0, error

    return run


def test_whole_file(arrays: Arrays, convert, tmp_path: pathlib.Path) -> None:
    assert convert(arrays) == (0, '')
    record = json.loads((tmp_path / 'to' / 'weights' / 'weights.json').read_text())
    assert (record['tensors'], record['missing']) == (14, [])
    assert record['numbers'] == sum(array.size for array in arrays.values())
    assert record['preprocessing'] == {
        'channel_order': 'RGB', 'trained_on': 'RGB', 'mean': [123.675, 116.28, 103.53],
        'std': [58.395, 57.12, 57.375], 'interpolation': 'bilinear',
        'resize': 'shorter side to 256 pixels, centre crop of 224',
    }  # fmt: skip
    code, error = convert(arrays)
    assert code == 2
    assert 'it exists; choose another folder' in error


def test_what_killed_imports_left_goes(arrays: Arrays, convert, tmp_path: pathlib.Path) -> None:
    """Of the same folder; what another import is at, here or elsewhere, stays."""
    to = tmp_path / 'to'
    to.mkdir()
    dead = written(to / '.weights-dead', started='1')
    (dead / 'whole').mkdir()
    living = [written(to / '.weights-here'), written(to / '.weights-there', place='elsewhere')]
    others = [written(to / '.weights2', started='1'), written(to / '.other-dead', started='1')]
    assert convert(arrays)[0] == 0
    assert {*to.iterdir()} == {to / 'weights', *living, *others}


def test_two_imports_at_once(
    arrays: Arrays, config: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is ready first is there, whole; the other one says so."""
    safetensors.numpy.save_file(arrays, tmp_path / 'source.safetensors')
    to = tmp_path / 'to' / 'weights'
    argv = [str(tmp_path / 'source.safetensors'), f'--config={config}', f'--to={to}']
    save = importer.checkpoint.save_weights

    def meanwhile(folder: pathlib.Path, variables: Any) -> None:
        save(folder, variables)
        monkeypatch.setattr(importer.checkpoint, 'save_weights', save)
        assert weights_command.main(argv) == 0

    monkeypatch.setattr(importer.checkpoint, 'save_weights', meanwhile)
    with pytest.raises(UserError, match='it exists; choose another folder'):
        weights_command.main(argv)
    assert [path.name for path in to.parent.iterdir()] == ['weights']
    assert trained.find(to).missing == []


def test_left_over(arrays: Arrays, convert) -> None:
    arrays['features.10.weight'] = np.zeros((8, 8, 3, 3), np.float32)
    code, error = convert(arrays)
    assert code == 2
    assert '1 tensor in the file without a place in the network: ' in error
    assert 'features.10.weight [8, 8, 3, 3]' in error


def test_missing(arrays: Arrays, convert) -> None:
    del arrays['features.6.bias']
    code, error = convert(arrays)
    assert code == 2
    assert '1 tensor of the network not in the file: ' in error
    assert 'conv3_1/bias [8] (expected as features.6.bias)' in error


@pytest.mark.parametrize(
    ('name', 'shape', 'complaint'),
    [
        ('features.3.weight', (8, 4, 5, 5),
         'conv2_1/kernel is [3, 3, 4, 8], features.3.weight in the file [8, 4, 5, 5]'),
        # As many numbers, which a reshape would take.
        ('features.3.weight', (4, 8, 3, 3),
         'conv2_1/kernel is [3, 3, 4, 8], features.3.weight in the file [4, 8, 3, 3]'),
        ('classifier.6.bias', (1001,),
         'fc8/bias is [1000], classifier.6.bias in the file [1001]'),
    ],
)  # fmt: skip
def test_another_shape(arrays: Arrays, convert, name: str, shape: tuple, complaint: str) -> None:
    arrays[name] = np.zeros(shape, np.float32)
    code, error = convert(arrays)
    assert code == 2
    assert f'1 tensor of another shape: {complaint}' in error


def test_several_of_each_are_counted(arrays: Arrays, convert) -> None:
    for name in [name for name in arrays if name.startswith('features.')]:
        arrays[f'trunk.{name}'] = arrays.pop(name)
    code, error = convert(arrays)
    assert code == 2
    assert '8 tensors in the file without a place in the network: trunk.features.0.' in error
    assert '8 tensors of the network not in the file: conv1_1/' in error
    assert error.count(' and 5 more') == 2


def test_not_finite(arrays: Arrays, convert) -> None:
    arrays['features.0.bias'][1] = np.inf
    code, error = convert(arrays)
    assert code == 2
    assert 'features.0.bias has values that are not finite' in error


@pytest.mark.parametrize(
    ('other', 'reason'),
    [
        ('configs/vgg.py:E', 'tensors of the network not in the file: conv1_2/'),
        ('configs/resnet.py:18', '14 tensors in the file without a place in the network: class'),
        ('configs/xception.py:xception', 'ports of Xception pad its pooling on both sides'),
        ('configs/zfnet.py:a', 'no public weights of zfnet are known'),
    ],
)
def test_another_architecture(arrays: Arrays, convert, other: str, reason: str) -> None:
    code, error = convert(arrays, config=other)
    assert code == 2
    assert reason in error


@dataclasses.dataclass
class State:
    """What `initial.start` needs of a TrainState."""

    params: Any
    batch_stats: Any = dataclasses.field(default_factory=dict)
    average: Any = dataclasses.field(default_factory=dict)


class TestPartial:
    """Convolutions alone, as a visualisation needs them."""

    @pytest.fixture
    def folder(self, arrays: Arrays, convert, tmp_path: pathlib.Path) -> pathlib.Path:
        convolutions = {n: array for n, array in arrays.items() if n.startswith('features.')}
        code, error = convert(convolutions)
        assert code == 2
        assert '6 tensors of the network not in the file: fc6/' in error
        assert convert(convolutions, '--partial') == (0, '')
        return tmp_path / 'to' / 'weights'

    def test_missing_layers_are_recorded_and_not_tested(self, folder, config, tmp_path) -> None:
        record = json.loads((folder / 'weights.json').read_text())
        assert sorted(record['missing']) == [
            'fc6/bias', 'fc6/kernel', 'fc7/bias', 'fc7/kernel', 'fc8/bias', 'fc8/kernel'
        ]  # fmt: skip
        assert record['tensors'] == 8
        (tmp_path / 'data' / 'n01440764').mkdir(parents=True)
        Image.new('RGB', (8, 8)).save(tmp_path / 'data' / 'n01440764' / 'a.png')
        argv = [f'--config={config}', f'--weights={folder}', '--config.data.source=folder',
                f'--config.data.dir={tmp_path / "data"}']  # fmt: skip
        with pytest.raises(UserError, match=r'lacks 6 arrays .* fc[678]/.*not to be tested'):
            eval_command.main(argv)

    def test_training_starts_from_them(self, folder, config, arrays) -> None:
        settings = configuration.load(config)
        mesh = meshes.create_mesh(settings.mesh)
        fresh = State(random_variables(models.build(settings.model), 224)['params'])
        with settings.unlocked():
            settings.init_from = str(folder)
        with pytest.raises(UserError, match=r'expects data\.mean = .*--config\.data\.mean=\['):
            initial.start(fresh, settings, mesh)
        trained.find(folder).adapt(settings)
        started = initial.start(fresh, settings, mesh)
        kernel = np.asarray(started.params['conv2_1']['kernel'])
        np.testing.assert_array_equal(kernel, arrays['features.3.weight'].transpose(2, 3, 1, 0))
        for name in ('fc6', 'fc7', 'fc8'):  # keep their own initialisation
            jax.tree.map(np.testing.assert_array_equal, started.params[name], fresh.params[name])

    def test_nothing_of_this_network(self, arrays: Arrays, convert) -> None:
        code, error = convert(
            {f'{name}.other': array for name, array in arrays.items()}, '--partial'
        )
        assert code == 2
        assert '14 tensors in the file without a place in the network' in error

    def test_left_over_tensors_are_refused_all_the_same(self, arrays: Arrays, convert) -> None:
        arrays['fc9.weight'] = np.zeros(3, np.float32)
        code, error = convert(arrays, '--partial')
        assert code == 2
        assert '1 tensor in the file without a place in the network: fc9.weight [3]' in error


class Attack:
    """A pickle of it makes a folder when it is loaded."""

    def __init__(self, proof: pathlib.Path):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


class TestFiles:
    def test_pickle_that_would_run_code(self, convert, tmp_path: pathlib.Path) -> None:
        path = tmp_path / 'weights.pth'
        path.write_bytes(pickle.dumps({'features.0.weight': Attack(tmp_path / 'proof')}, 2))
        code, error = convert(path)
        assert code == 2
        assert "asks for 'posix mkdir', which no tensor needs" in error
        assert not (tmp_path / 'proof').exists()

    @pytest.mark.parametrize('suffix', ['.h5', '.pth', '.safetensors', '.caffemodel'])
    def test_cut_off(self, convert, tmp_path: pathlib.Path, suffix: str, arrays: Arrays) -> None:
        """In each format the first half of a file, and the first half of another format's."""
        path, whole = tmp_path / f'cut{suffix}', tmp_path / 'whole.safetensors'
        safetensors.numpy.save_file(arrays, whole)
        for content in (whole.read_bytes()[: whole.stat().st_size // 2], b''):
            path.write_bytes(content)
            code, error = convert(path)
            assert code == 2
            assert 'not a complete' in error
            assert str(path) in error

    def test_neither_a_file_nor_a_name(self, convert, tmp_path: pathlib.Path) -> None:
        for source, reason in (
            (str(tmp_path / 'none.pth'), 'no such file, and not the name of public weights'),
            ('kreas/vgg16', 'did you mean keras/vgg16?'),
            (str(tmp_path), 'a folder, not a file'),
        ):
            code, error = convert(source)
            assert code == 2
            assert reason in error
        (tmp_path / 'weights.zip').write_bytes(b'\xfe\xff, neither')
        assert 'weights come as .h5, ' in convert(tmp_path / 'weights.zip')[1]


class TestPublic:
    """By name: what is fetched, from where, and whether it is what was published."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
        """An empty cache, and no network."""
        folder = tmp_path / 'cache'
        monkeypatch.setattr(public, 'folder', lambda: folder)
        for name in ('http_proxy', 'https_proxy'):
            monkeypatch.setenv(name, 'http://127.0.0.1:9')  # where nobody listens
        return folder

    @pytest.mark.parametrize('name', ['keras/vgg16', 'torchvision/vgg16', 'timm/vgg16.tv_in1k',
                                      'caffe/bvlc_googlenet'])  # fmt: skip
    def test_without_network(self, convert, cache, monkeypatch, name: str) -> None:
        """Asked of the publisher's own library; the message says which file to put where."""
        if name.startswith('timm'):  # that one would try again and again
            monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
        code, error = convert(name)
        assert code == 2
        file = public.PUBLIC[name].file
        assert f'put {file} from {public.PUBLIC[name].url} into {cache}, or give its path' in error
        assert 'not fetched' in error or name.startswith('caffe')

    def test_another_file_under_the_name(self, convert, cache, tmp_path, arrays: Arrays) -> None:
        file = cache / public.PUBLIC['keras/vgg16'].file
        file.parent.mkdir(parents=True)
        file.write_bytes(b'something else')
        code, error = convert('keras/vgg16')
        assert code == 2
        assert 'not the file that keras/vgg16 names, md5:64373286793e3c8b2b4e3219cbf3544b' in error
        # torchvision's names carry the beginning of the SHA-256.
        safetensors.numpy.save_file(arrays, tmp_path / 'vgg11-8a719046.safetensors')
        code, error = convert(tmp_path / 'vgg11-8a719046.safetensors')
        assert code == 2
        assert 'its SHA-256 does not begin with 8a719046, as its name says' in error

    def test_the_published_file_is_known(self, convert, cache, tmp_path, monkeypatch, arrays):
        """By its digest, under its own name: put where the message said, or given as a path."""
        cache.mkdir(parents=True)
        file = cache / 'vgg11-8a719046.safetensors'
        safetensors.numpy.save_file(arrays, file)
        digest = importer.sha256_of(file)
        renamed = file.rename(cache / f'vgg11-{digest[:8]}.safetensors')
        known = public.Public(renamed.name, 'https://example.org', f'sha256:{digest[:8]}')
        monkeypatch.setitem(public.PUBLIC, 'torchvision/vgg11', known)
        assert convert('torchvision/vgg11') == (0, '')
        record = json.loads((tmp_path / 'to' / 'weights' / 'weights.json').read_text())
        assert record['known_as'] == 'torchvision/vgg11'
        assert record['sha256'] == digest
