"""Files of Keras Applications: equal logits and probabilities, and files of something else."""

import dataclasses
import json
import pathlib
from typing import Any

import h5py
import numpy as np
import pytest

import cnn_arch.mesh as meshes
from cnn_arch import configuration, models
from cnn_arch.data import decode, sources
from cnn_arch.errors import UserError
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.weights import importer, trained
from tests import oracles
from tests.shared import shared_data
from tests.weights import common

RESNET_50 = 'weights/resnet50_weights_tf_dim_ordering_tf_kernels.h5'
CONFIG = 'configs/resnet.py:50'


@pytest.fixture(scope='module')
def real_weights(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The authors' ResNet-50, imported."""
    folder = tmp_path_factory.mktemp('resnet') / '50'
    record = common.imported(shared_data(RESNET_50), CONFIG, folder)
    assert record['keys']['model.batch_norm.epsilon'] == 1.001e-5
    assert record['changes'] == [
        '53 convolution biases taken into the running means that follow them',
        'conv1/kernel: input channels reversed, it was trained on BGR',
    ]
    return folder


def compare_with_keras(folder: pathlib.Path, count: int | None) -> None:
    """Our evaluation of validation images against Keras in float64 on the same 224x224 pixels."""
    import keras

    config = configuration.load(CONFIG)
    with config.unlocked():
        config.data.source, config.data.dir = 'folder', str(shared_data('ilsvrc_val227'))
        config.eval.protocol, config.eval.batch_size = 'center', 8
    found = trained.find(folder)
    found.check(config)
    found.adapt(config, evaluation=True)
    config.eval.scale = 227
    source = sources.open_for(config, 'eval')
    assert source.complete == 50_000
    if count is not None:
        assert isinstance(source, sources.FileSource)
        source = dataclasses.replace(
            source, names=source.names[:count], labels=source.labels[:count]
        )
    mesh = meshes.create_mesh(config.mesh)
    ours = evaluate(models.build(config.model), found.restore(config, mesh), source, config, mesh)
    assert ours.images == f'{len(source)} of 50,000'

    with oracles.float64_in_keras():
        peer = keras.applications.resnet50.ResNet50(weights=str(shared_data(RESNET_50)))
    # 227 to 224 from the centre begins at floor(3 / 2).
    pixels = np.stack([decode.decode(source[i].image)[1:225, 1:225] for i in range(len(source))])
    inputs = keras.applications.resnet50.preprocess_input(pixels.astype(np.float32))
    theirs = np.concatenate(
        [oracles.run_keras(peer, inputs[i : i + 8]) for i in range(0, len(inputs), 8)]
    )
    best = np.argsort(-theirs, axis=1)[:, :5]
    np.testing.assert_array_equal(ours.classes, best)
    oracles.assert_close(ours.probabilities, np.take_along_axis(theirs, best, axis=1))
    labels = np.asarray(source.labels)
    assert ours.top1_error == pytest.approx(100 * np.mean(best[:, 0] != labels))
    assert ours.top5_error == pytest.approx(100 * np.mean((best != labels[:, None]).all(axis=1)))


def test_real_resnet_on_real_images(real_weights: pathlib.Path) -> None:
    """Eight of the 300; the slow test takes all."""
    compare_with_keras(real_weights, 8)


@pytest.mark.slow
def test_real_resnet_on_all_real_images(real_weights: pathlib.Path) -> None:
    compare_with_keras(real_weights, None)


def check_application(
    name: str, config: str, tmp_path: pathlib.Path, size: int, module: str
) -> dict[str, Any]:
    """Random weights of a Keras application, saved as Keras saves .h5, give equal probabilities."""
    import keras
    from keras.src.legacy.saving import legacy_h5_format

    with oracles.float64_in_keras():
        peer = getattr(keras.applications, name)(weights=None, classifier_activation=None)
    rng = np.random.default_rng(0)

    def draw(weight: Any) -> np.ndarray:
        """float32, which is what files have."""
        shape = weight.shape
        if weight.name in ('gamma', 'moving_variance'):
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        if len(shape) == 1:
            return rng.normal(0, 0.1, shape).astype(np.float32)
        fan_in = np.prod(shape[:2]) if 'depthwise' in weight.name else np.prod(shape[:-1])
        return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(1 / fan_in))

    path = tmp_path / 'weights.h5'
    with oracles.float64(), h5py.File(path, 'w') as file:
        for weight in peer.weights:
            weight.assign(draw(weight))
        legacy_h5_format.save_weights_to_hdf5_group(file, peer)
    record = common.imported(path, config, tmp_path / 'imported')
    assert record['missing'] == []

    pixels = common.random_pixels(2, size, size, 3)
    preprocess = getattr(keras.applications, module).preprocess_input
    theirs = oracles.run_keras(peer, preprocess(pixels.astype(np.float32)))
    # Pixels are float32 on both sides, but Keras divides by 255 before it subtracts a mean.
    oracles.assert_close(common.logits(tmp_path / 'imported', config, pixels), theirs, 1e-5)
    return record


@pytest.mark.filterwarnings('ignore:__array__ implementation')  # Keras' own, when it saves
@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'config', 'size', 'module', 'order'),
    [
        ('VGG16', 'configs/vgg.py:D', 224, 'vgg16', 'BGR'),
        ('VGG19', 'configs/vgg.py:E', 224, 'vgg19', 'BGR'),
        ('ResNet101', 'configs/resnet.py:101', 224, 'resnet', 'BGR'),
        ('ResNet50V2', 'configs/resnet.py:50-v2-keras', 224, 'resnet_v2', 'RGB'),
        ('DenseNet121', 'configs/densenet.py:121', 224, 'densenet', 'RGB'),
        ('Xception', 'configs/xception.py:xception', 299, 'xception', 'RGB'),
    ],
)
def test_applications(
    tmp_path: pathlib.Path, name: str, config: str, size: int, module: str, order: str
) -> None:
    record = check_application(name, config, tmp_path, size, module)
    assert record['preprocessing']['trained_on'] == order
    assert record['keys']['data.augment.size'] == size


def write_layers(path: pathlib.Path, layers: dict[str, dict[str, np.ndarray]]) -> None:
    """A file in the layout by hand: {layer: {name of the array: array}}."""
    with h5py.File(path, 'w') as file:
        file.attrs['layer_names'] = [name.encode() for name in layers]
        for layer, arrays in layers.items():
            group = file.create_group(layer)
            group.attrs['weight_names'] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                group.create_dataset(name, data=array)


def test_names_of_all_ages(tmp_path: pathlib.Path) -> None:
    """Keras 1, 2 and 3 name the same arrays differently, and number layers from where they like."""
    ones = np.ones(2, np.float32)
    write_layers(
        tmp_path / 'weights.h5',
        {
            'block1_conv1': {'block1_conv1_W_1:0': ones, 'block1_conv1_b_1:0': ones},
            'bn_conv1': {'bn_conv1_running_std_1:0': ones, 'bn_conv1_gamma_1:0': ones},
            'conv1/bn': {'conv1/bn/moving_variance:0': ones},
            'sep': {'sep/depthwise_kernel:0': ones, 'sep/pointwise_kernel:0': ones},
            'predictions': {'predictions/kernel': ones},
            'conv2d_12': {'conv2d_12/kernel:0': ones * 12},
            'conv2d_5': {'conv2d_5/kernel:0': ones * 5},
            'pool': {},
        },
    )
    file = importer.open_file(tmp_path / 'weights.h5')
    assert sorted(file.tensors) == [
        'block1_conv1/bias', 'block1_conv1/kernel', 'bn_conv1/gamma', 'bn_conv1/moving_variance',
        'conv1_bn/moving_variance', 'conv2d_1/kernel', 'conv2d_2/kernel', 'predictions/kernel',
        'sep/depthwise_kernel', 'sep/pointwise_kernel',
    ]  # fmt: skip
    assert file.tensors['conv2d_1/kernel'].read()[0] == 5


def test_the_first_keras_resnet_bears_caffes_names(
    tmp_path: pathlib.Path, real_weights: pathlib.Path
) -> None:
    """The same arrays under the names of 2015 give the same folder."""
    new = importer.open_file(shared_data(RESNET_50))
    config = configuration.load(CONFIG)
    family = importer.FAMILIES['resnet']
    model = models.build(config.model)
    names, old_names = (family.recipes[i].names(model) for i in (0, 1))
    layers: dict[str, dict[str, np.ndarray]] = {}
    for ours, theirs in names.items():
        for name, tensor in new.tensors.items():
            layer, _, kind = name.partition('/')
            if layer == theirs:
                old = {'kernel': 'W', 'bias': 'b', 'moving_mean': 'running_mean',
                       'moving_variance': 'running_std'}.get(kind, kind)  # fmt: skip
                layers.setdefault(old_names[ours], {})[f'{old_names[ours]}_{old}_1:0'] = (
                    tensor.read()
                )
    assert 'res4f_branch2b' in layers
    assert 'bn2a_branch1' in layers
    write_layers(tmp_path / 'old.h5', layers)
    record = common.imported(tmp_path / 'old.h5', CONFIG, tmp_path / 'imported')
    assert record['digest'] == json.loads((real_weights / 'weights.json').read_text())['digest']


@pytest.mark.parametrize('kind', ['external', 'soft', 'storage', 'virtual'])
def test_arrays_outside_the_file_are_not_read(tmp_path: pathlib.Path, kind: str) -> None:
    """HDF5 can point to other files; a weight file must hold its weights."""
    secret = tmp_path / 'secret.h5'
    with h5py.File(secret, 'w') as file:
        file['kernel'] = np.ones(3)
    (tmp_path / 'raw').write_bytes(bytes(24))
    path = tmp_path / 'weights.h5'
    with h5py.File(path, 'w') as file:
        file.attrs['layer_names'] = [b'conv1']
        group = file.create_group('conv1')
        group.attrs['weight_names'] = [b'kernel:0']
        if kind == 'external':
            group['kernel:0'] = h5py.ExternalLink(str(secret), '/kernel')
        elif kind == 'soft':
            group['kernel:0'] = h5py.SoftLink('/elsewhere')
        elif kind == 'storage':
            group.create_dataset('kernel:0', (3,), 'f8', external=[(str(tmp_path / 'raw'), 0, 24)])
        else:
            layout = h5py.VirtualLayout((3,), 'f8')
            layout[:] = h5py.VirtualSource(str(secret), 'kernel', (3,))
            group.create_virtual_dataset('kernel:0', layout)
    with pytest.raises(UserError, match=r'link that is not followed|not an array of this file'):
        importer.open_file(path)


@pytest.mark.parametrize('share', [0.0, 0.001, 0.5, 0.999])
def test_cut_off_files_are_refused(tmp_path: pathlib.Path, share: float) -> None:
    path = tmp_path / 'weights.h5'
    write_layers(path, {'conv1_conv': {'conv1_conv/kernel:0': np.ones((7, 7, 3, 64))}})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match='not a complete weight file'):
        importer.open_file(path)
