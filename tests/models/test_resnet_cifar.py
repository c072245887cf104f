"""The networks of He et al. 2016, section 4.2, against a PyTorch network written from its text, in
float64, and real weights on CIFAR-10's test split."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cnn_arch import configuration, models
from cnn_arch.models.resnet import CIFAR_DEPTHS, CIFAR_PLAIN_DEPTHS, VARIANTS, ResNet
from cnn_arch.training import losses, schedules
from tests import oracles
from tests.shared import shared_data, transcription

MEAN, STD = np.asarray([0.485, 0.456, 0.406]), np.asarray([0.229, 0.224, 0.225])
TOLERANCE = 1e-9
Arrays = dict[str, np.ndarray]


def peer(
    arrays: dict[str, torch.Tensor], images: torch.Tensor, depth: int, shortcut: str, zeros: str,
    group: int = 0,
) -> torch.Tensor:  # fmt: skip
    """Logits [N, 10] of images [N, 3, 32, 32]: 6n + 2 layers, option A or none.

    With `group`, batch normalisation takes its statistics over groups of so many images.
    """

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        scale, bias = arrays[f'{name}.weight'], arrays[f'{name}.bias']
        if not group:
            mean, var = arrays[f'{name}.running_mean'], arrays[f'{name}.running_var']
            return F.batch_norm(x, mean, var, scale, bias, eps=1e-5)
        parts = [F.batch_norm(p, None, None, scale, bias, True, eps=1e-5) for p in x.split(group)]
        return torch.cat(parts)

    x = F.relu(norm(F.conv2d(images, arrays['conv1.weight'], padding=1), 'bn1'))
    for stage, maps in enumerate((16, 32, 64), 1):
        for block in range((depth - 2) // 6):
            name, stride = f'layer{stage}.{block}', 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(x, arrays[f'{name}.conv1.weight'], stride=stride, padding=1)
            y = F.relu(norm(y, f'{name}.bn1'))
            y = norm(F.conv2d(y, arrays[f'{name}.conv2.weight'], padding=1), f'{name}.bn2')
            if shortcut == 'A':
                new = maps - x.shape[1]
                before = new // 2 if zeros == 'around' else 0
                x = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, before, new - before))
                y = x + y
            x = F.relu(y)
    return F.linear(x.mean((2, 3)), arrays['linear.weight'], arrays['linear.bias'])


def named_as_theirs(variables: Any) -> Arrays:
    """Our variables under torchvision's names of layers, in PyTorch's layout."""
    leaves = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}
    arrays = {}
    for tree in variables.values():
        for path, value in jax.tree_util.tree_leaves_with_path(tree):
            *layer, leaf = (part.key for part in path)
            name = '.'.join(layer).replace('fc', 'linear')
            if '_' in name:
                stage, _, rest = name.removeprefix('conv').partition('_')
                block, _, inner = rest.partition('.')
                name = f'layer{int(stage) - 1}.{int(block) - 1}.{inner}'
            value = np.asarray(value)
            order = (3, 2, 0, 1) if value.ndim == 4 else (1, 0) if value.ndim == 2 else (0,)
            arrays[f'{name}.{leaves.get(leaf, leaf)}'] = value.transpose(order)
    return arrays


def doubles(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def test_parameters_are_those_of_table_6() -> None:
    """And of 6n + 2 layers by hand; plain networks have as many as option A."""
    printed = {20: '0.27M', 32: '0.46M', 44: '0.66M', 56: '0.85M', 110: '1.7M', 1202: '19.4M'}
    assert tuple(printed) == CIFAR_DEPTHS
    for depth in CIFAR_DEPTHS:
        n = (depth - 2) // 6
        kernels = 9 * (3 * 16 + 2 * n * 16 * 16 + 16 * 32 + (2 * n - 1) * 32 * 32)
        kernels += 9 * (32 * 64 + (2 * n - 1) * 64 * 64)
        count = kernels + 2 * (16 + 2 * n * (16 + 32 + 64)) + 64 * 10 + 10
        assert f'{count / 1e6:.{2 if depth < 110 else 1}f}M' == printed[depth]
        for label in (f'cifar-{depth}', f'cifar-plain-{depth}'):
            if label in VARIANTS and depth < 1202:  # which takes long to trace
                model = ResNet(**VARIANTS[label], num_classes=10)
                assert oracles.count_parameters(model, 32) == count
    assert set(CIFAR_PLAIN_DEPTHS) < set(CIFAR_DEPTHS)


def test_the_numbers_are_as_transcribed() -> None:
    rows = transcription()['resnet']['tables']['6']['rows']
    assert [row['layers'] for row in rows if row['model'] == 'ResNet'] == list(CIFAR_DEPTHS)


def test_the_recipe_is_section_4_2() -> None:
    printed = transcription()['resnet']['cifar_training']
    for depth in (20, 110):
        config = configuration.load(f'configs/resnet.py:cifar-{depth}')
        configuration.validate(config)
        assert config.train.batch_size == printed['batch_size']
        assert config.train.steps == printed['iterations']
        assert config.optim.weight_decay == printed['weight_decay']
        assert printed['drops'] == 'at 32k and 48k iterations'
        rate = schedules.learning_rate(config, 50_000 / config.train.batch_size)
        warm = schedules.initial_feedback()._replace(warm=jnp.asarray(True))
        rates = [float(rate(step, warm)) for step in (0, 31_999, 32_000, 47_999, 48_000)]
        np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001], rtol=1e-6)
        cold = float(rate(0, schedules.initial_feedback()))
        assert cold == pytest.approx(0.01 if depth == 110 else 0.1)
        augment = config.data.augment
        assert (augment.crop, augment.padding, augment.size, augment.mirror) == (
            'padded', 4, 32, True,
        )  # fmt: skip


@pytest.mark.parametrize(
    ('label', 'zeros'), [('cifar-20', 'after'), ('cifar-20', 'around'), ('cifar-plain-20', 'after')]
)
def test_logits(label: str, zeros: str) -> None:
    with jax.enable_x64(True):
        model = ResNet(**VARIANTS[label], num_classes=10, shortcut_zeros=zeros, dtype=jnp.float64)
        variables = doubles(oracles.random_variables(model, 32))
        images = np.random.default_rng(1).standard_normal((3, 32, 32, 3))
        ours = oracles.jit(model.apply)(variables, images)[0]
    arrays = {k: torch.tensor(v) for k, v in named_as_theirs(variables).items()}
    shortcut = VARIANTS[label]['shortcut']
    pixels = torch.tensor(images.transpose(0, 3, 1, 2))
    oracles.assert_close(ours, peer(arrays, pixels, 20, shortcut, zeros).numpy(), TOLERANCE)


def test_loss_and_gradient_of_a_training_step() -> None:
    """Batch normalisation over groups, as 128 images on two GPUs; every gradient."""
    config = configuration.load('configs/resnet.py:cifar-20')
    with config.unlocked():
        config.model.batch_norm.group_size = 4
    with jax.enable_x64(True):
        model = models.build(config.model).clone(dtype=jnp.float64)
        variables = doubles(oracles.random_variables(model, 32))
        rng = np.random.default_rng(1)
        images, labels = rng.standard_normal((8, 32, 32, 3)), rng.integers(0, 10, 8)

        def loss_of(params: Any) -> jax.Array:
            (logits, endpoints), _ = model.apply(
                {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
            )
            return losses.loss(logits, endpoints, jnp.asarray(labels), config.loss).mean()

        loss, gradients = oracles.jit(jax.value_and_grad(loss_of))(variables['params'])
    arrays = {k: torch.tensor(v, requires_grad=True) for k, v in named_as_theirs(variables).items()}
    theirs = F.cross_entropy(
        peer(arrays, torch.tensor(images.transpose(0, 3, 1, 2)), 20, 'A', 'after', group=4),
        torch.tensor(labels),
    )
    theirs.backward()
    assert float(loss) == pytest.approx(theirs.item(), rel=TOLERANCE)
    ours = named_as_theirs({'params': gradients})
    assert len(ours) == len(jax.tree.leaves(variables['params']))
    for name, gradient in ours.items():
        expected = arrays[name].grad
        assert expected is not None
        oracles.assert_close(gradient[None], expected[None].numpy(), TOLERANCE)


@pytest.mark.parametrize(
    ('depth', 'images', 'top1', 'top5'),
    [
        (20, 500, None, None),
        pytest.param(20, 10_000, 8.27, 0.34, marks=pytest.mark.slow),
        pytest.param(32, 10_000, 7.37, 0.22, marks=pytest.mark.slow),
    ],
)
def test_real_weights(
    tmp_path: Any, depth: int, images: int, top1: float | None, top5: float | None
) -> None:
    """Imported and evaluated by the product; each image's class as PyTorch has it."""
    from cnn_arch import mesh
    from cnn_arch.data import sources
    from cnn_arch.evaluation.evaluate import evaluate
    from cnn_arch.weights import importer, trained

    path = shared_data('weights') / f'cifar_resnet{depth}.th'
    folder = shared_data('cifar10')
    name = f'configs/resnet.py:cifar-{depth}'
    importer.import_weights(path, '', name, [], tmp_path / 'weights')
    config = configuration.load(name)
    network = trained.find(tmp_path / 'weights')
    network.adapt(config, evaluation=True)
    with config.unlocked():
        config.data.dir, config.data.eval_split = str(folder), f'test[:{images}]'
    source = sources.open_for(config, 'eval')
    devices = mesh.create_mesh(config.mesh)
    variables = network.restore(config, devices)
    result = evaluate(models.build(config.model), variables, source, config, devices)

    state = torch.load(path, map_location='cpu', weights_only=True)['state_dict']
    arrays = {key.removeprefix('module.'): value for key, value in state.items()}
    pixels = (source.images / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    with torch.inference_mode():
        theirs = torch.cat([
            peer(arrays, torch.tensor(part.transpose(0, 3, 1, 2)), depth, 'A', 'around')
            for part in np.array_split(pixels, max(1, images // 500))
        ])  # fmt: skip
    best = theirs.argsort(dim=1, descending=True)[:, :2].numpy()
    margin = torch.softmax(theirs, 1).gather(1, torch.tensor(best)).diff(dim=1).abs()[:, 0].numpy()
    decided = margin > 1e-4
    assert decided.mean() > 0.99
    np.testing.assert_array_equal(result.classes[decided, 0], best[decided, 0])
    if top1 is not None:
        assert (round(result.top1_error, 2), round(result.top5_error, 2)) == (top1, top5)
