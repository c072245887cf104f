"""The training recipes of the configs against papers.yaml, an independent reading of the papers."""

import argparse
import shlex
from typing import Any

import ml_collections
import numpy as np
import pytest

from cnn_arch import commands, configuration
from cnn_arch.errors import UserError
from cnn_arch.evaluation import protocols
from cnn_arch.papers import googlenet, vgg
from cnn_arch.training import parameters, schedules, validation
from cnn_arch.weights import trained
from tests.shared import transcription

CONFIGS = configuration.CONFIGS
IMAGENET = 1_281_167


def load(name: str) -> ml_collections.ConfigDict:
    return configuration.load(str(CONFIGS / f'{name.replace(":", ".py:")}'))


@pytest.mark.parametrize(
    ('name', 'paper'),
    [('alexnet:two_tower', 'alexnet'), ('zfnet:a', 'zfnet'), ('zfnet:b', 'zfnet'),
     ('resnet:50', 'resnet'), ('resnet:plain34', 'resnet'), ('senet:se_resnet50', 'senet'),
     *((f'vgg:{column}', 'vgg') for column in ('A', 'A-LRN', 'B', 'C', 'D', 'E'))],
)  # fmt: skip
def test_batch_rate_momentum_and_decay(name: str, paper: str) -> None:
    config, printed = load(name), transcription()[paper]['training']
    assert config.train.batch_size == printed['batch_size']
    assert config.optim.learning_rate == printed['lr_initial']
    assert config.optim.momentum == printed['momentum']
    decay = printed['weight_decay']
    if decay != 'not printed':
        assert config.optim.weight_decay == decay
    if 'epochs' in printed:
        assert config.train.epochs == printed['epochs']
    dropout = printed.get('dropout')
    if dropout:
        assert config.model.options.dropout == dropout['p']


@pytest.mark.parametrize('paper', ['alexnet:two_tower', 'zfnet:a', 'vgg:D', 'resnet:50'])
def test_the_rate_drops_on_plateau_where_the_paper_says_so(paper: str) -> None:
    assert 'plateau' in transcription()[paper.partition(':')[0]]['training']['lr_policy']
    schedule = load(paper).schedule
    assert (schedule.kind, schedule.factor, schedule.drops) == ('plateau', 0.1, 3)


def test_lengths_printed_in_iterations() -> None:
    vgg, resnet = load('vgg:D'), load('resnet:50')
    steps = vgg.train.epochs * IMAGENET / vgg.train.batch_size
    assert steps == pytest.approx(transcription()['vgg']['training']['iterations'], rel=0.005)
    assert resnet.train.epochs * IMAGENET / resnet.train.batch_size == pytest.approx(6e5, rel=0.005)


def test_alexnet_keeps_the_rate_in_the_buffer_and_zfnet_renormalises() -> None:
    assert transcription()['alexnet']['training']['update_rule'].endswith('w <- w + v')
    assert load('alexnet:two_tower').optim.rule == 'alexnet'
    assert load('zfnet:a').optim.filter_rms == 0.1
    assert 'whose RMS exceeds 1e-1' in transcription()['zfnet']['training']['filter_renorm']


def test_googlenet() -> None:
    config, printed = load('googlenet:googlenet'), transcription()['googlenet']['training']
    assert printed['lr_policy'] == 'decrease 4% every 8 epochs'
    schedule = config.schedule
    assert (schedule.kind, schedule.factor, schedule.every) == ('exponential', 0.96, 8.0)
    assert config.optim.momentum == printed['momentum']
    solver = printed['caffe_solver']  # what the paper does not print
    assert config.optim.learning_rate == solver['base_lr']
    assert config.optim.weight_decay == solver['weight_decay']
    assert config.schedule.every * IMAGENET / config.train.batch_size == pytest.approx(
        solver['stepsize'], rel=0.001
    )
    augment = config.data.augment
    assert (augment.area_min, augment.area_max) == (0.08, 1.0)
    assert (augment.aspect_min, augment.aspect_max) == (3 / 4, 4 / 3)
    assert augment.photometric
    assert augment.pca_colour == 0.1  # Howard's lighting noise, as Krizhevsky's
    assert augment.interpolation == 'random'


@pytest.mark.parametrize('name', ['densenet:121', 'densenet:264'])
def test_densenet(name: str) -> None:
    config, printed = load(name), transcription()['densenet']['training']
    imagenet = printed['imagenet']
    assert (config.train.epochs, config.train.batch_size) == (90, 256)
    assert (imagenet['epochs'], imagenet['batch_size']) == (90, 256)
    assert config.optim.learning_rate == imagenet['lr_initial']
    assert imagenet['lr_drops'] == '/10 at epochs 30 and 60'
    assert (config.schedule.kind, config.schedule.boundaries) == ('steps', (30.0, 60.0))
    assert (config.optim.rule, config.optim.momentum) == ('nesterov', 0.9)
    assert config.optim.weight_decay == printed['weight_decay']


def test_densenet_on_cifar() -> None:
    config, printed = load('densenet:BC-L100-k12'), transcription()['densenet']['training']['cifar']
    assert config.train.batch_size == printed['batch_size']
    assert config.train.epochs == printed['epochs'] == 300
    assert config.schedule.boundaries == (150.0, 225.0)  # 50 % and 75 %
    assert config.model.options.dropout == 0.2


def test_xception() -> None:
    config, printed = load('xception:xception'), transcription()['xception']['training']
    assert config.optim.learning_rate == printed['imagenet']['lr_initial']
    assert config.optim.momentum == printed['imagenet']['momentum']
    assert printed['imagenet']['lr_decay'] == 'x0.94 every 2 epochs'
    assert (config.schedule.factor, config.schedule.every) == (0.94, 2.0)
    assert config.optim.weight_decay == printed['weight_decay']
    assert config.data.augment.size == 299


def test_senet_divides_by_ten_every_thirty_epochs() -> None:
    schedule = load('senet:se_resnet50').schedule
    assert transcription()['senet']['training']['lr_policy'] == '/10 every 30 epochs'
    assert (schedule.kind, schedule.factor, schedule.every) == ('exponential', 0.1, 30.0)


EVERY = [(path.stem, variant) for path in configuration.papers()
         for variant in configuration.variants(path)]  # fmt: skip


@pytest.mark.parametrize(('paper', 'variant'), EVERY)
def test_averaging_smoothing_and_cosine_only_where_a_paper_has_them(
    paper: str, variant: str
) -> None:
    config = load(f'{paper}:{variant}')
    smoothed = variant == 'senet154' or variant.startswith('journal')
    assert (config.loss.label_smoothing > 0) == smoothed
    if paper != 'lenet':  # whose departures they are: see configs/lenet.py
        assert (config.optim.polyak_decay > 0) == (paper in ('googlenet', 'xception'))
        assert config.schedule.kind != 'cosine'
        assert config.data.augment.size == (
            32 if config.data.source == 'cifar10' else 299 if paper == 'xception' else 224
        )


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('alexnet:two_tower', {'crop': 'central_square', 'scale_min': 256, 'scale_max': 256,
                               'pca_colour': 0.1, 'mirror': True}),
        ('vgg:D', {'crop': 'isotropic', 'scale_min': 256, 'scale_max': 256, 'pca_colour': 0.1,
                   'mirror': True}),
        ('resnet:50', {'crop': 'isotropic', 'scale_min': 256, 'scale_max': 480,
                       'pca_colour': 0.1, 'mirror': True}),
        ('senet:se_resnet50', {'crop': 'random_resized', 'area_min': 0.08, 'mirror': True}),
    ],
)  # fmt: skip
def test_augmentation(name: str, expected: dict[str, Any]) -> None:
    augment = load(name).data.augment
    assert {key: augment[key] for key in expected} == expected


@pytest.mark.parametrize(
    'paper', ['alexnet.py:two_tower', 'zfnet.py:a', 'vgg.py:D', 'resnet.py:50']
)
def test_fixed_steps_in_place_of_the_plateau(paper: str) -> None:
    flags = [f'--config={CONFIGS / paper}', '--config.schedule.kind=steps',
             '--config.schedule.boundaries=30,60']  # fmt: skip
    _, config = commands.parse(argparse.ArgumentParser(), flags)
    rate = schedules.learning_rate(config, steps_per_epoch=10)
    first = config.optim.learning_rate
    rates = [float(rate(step)) for step in (0, 299, 300, 599, 600)]
    np.testing.assert_allclose(rates, [first, first, first / 10, first / 10, first / 100])


def test_resnets_warm_up() -> None:
    """Section 4.2: "0.01 to warm up the training until the training error is below 80%"."""
    assert transcription()['resnet']['cifar_training']['resnet110_warmup'].startswith(
        'lr 0.01 until train error < 80%'
    )
    flags = [f'--config={CONFIGS / "resnet.py:plain34"}', '--config.schedule.warmup_rate=0.01',
             '--config.schedule.warmup_until=80']  # fmt: skip
    _, config = commands.parse(argparse.ArgumentParser(), flags)
    rate = schedules.learning_rate(config, steps_per_epoch=10)
    feedback = schedules.initial_feedback()
    assert float(rate(0, feedback)) == np.float32(0.01)
    for _ in range(50):
        feedback = schedules.warmup_update(feedback, 70.0, config.schedule)
    assert float(rate(0, feedback)) == np.float32(0.1)


def test_validations_cost_one_crop_where_the_test_costs_more() -> None:
    """Of every variant of every paper; the test at the end stays the paper's."""
    dear = set()
    for path in configuration.papers():
        for variant in configuration.variants(path):
            config = configuration.load(f'{path}:{variant}')
            plan = protocols.resolve(validation.settings(config))
            assert (plan.views, len(plan.scales)) == (('center',), 1), (path, variant)
            if not validation.is_the_test(config):
                dear.add(f'{path.stem} {config.eval.protocol}')
    assert dear == {'alexnet ten_crop', 'zfnet ten_crop', 'vgg dense', 'googlenet googlenet_144',
                    'resnet ten_crop'}  # fmt: skip


def test_a_protocol_of_validations_has_its_own_views() -> None:
    config = load('googlenet:googlenet')
    config.eval.views = ('ten_crop',)
    config.eval.average = 'posteriors'
    config.eval.view_average = 'posteriors'
    config.eval.scale = 300
    plan = protocols.resolve(validation.settings(config))
    assert (plan.views, plan.average, plan.scales) == (('center',), 'scores', (300,))
    config.train.eval_protocol = 'densenet_10'
    assert protocols.resolve(validation.settings(config)).view_average == 'scores'
    config.train.eval_protocol = 'center'
    assert protocols.resolve(config).views == ('ten_crop',)
    config.train.eval_protocol = 'nine_crop'
    with pytest.raises(
        UserError, match=r"train.eval_protocol = 'nine_crop': choose one of '', center"
    ):
        configuration.validate(config)
    config.train.eval_protocol = 'vgg_150'
    with pytest.raises(
        UserError, match=r'train.eval_protocol: protocol vgg_150 tests around the training scale'
    ):
        validation.is_the_test(config)


def test_xceptions_decay_is_printed_beside_that_of_inception() -> None:
    printed = transcription()['xception']['training']
    assert printed['weight_decay_inception_v3'] == 4e-5  # TensorFlow's: the gradient is 4e-5 w
    assert load('xception:xception').optim.weight_decay == printed['weight_decay'] == 1e-5


def test_senet_154_ends_with_frozen_statistics() -> None:
    changes = transcription()['senet']['architecture']['senet154']['changes']
    assert 'BN frozen in the last epochs' in changes
    config = load('senet:senet154')
    assert 0 < config.train.epochs - config.train.freeze_statistics <= 5
    assert load('senet:se_resnet50').train.freeze_statistics == 0


def test_googlenets_ensemble_shares_initial_weights() -> None:
    """Section 7: the members "differ only in sampling methodologies"."""
    for row in googlenet.TABLE_3:
        if row.members:
            assert len({member.overrides['data.seed'] for member in row.members}) == 7
            assert all(set(member.overrides) == {'data.seed'} for member in row.members)


def test_the_third_net_of_vggs_submission_trains_its_last_layers_alone(tmp_path) -> None:
    """The command that its row prints says so to a shell."""
    row = next(row for row in vgg.TABLE_6[0].members if row.name == 'D-jitter-fc')
    with pytest.raises(UserError, match=r'makes it$') as error:
        trained.finder(tmp_path / 'my runs', [])(row, load('vgg:D'), [])
    command = str(error.value).rpartition('python train.py ')[2].removesuffix(' makes it')
    words = shlex.split(command)
    assert words[0] == '--config=configs/vgg.py:D'
    overrides, rest = commands.split_overrides(words[1:])
    assert rest == []
    config = load('vgg:D')
    commands.apply_overrides(config, overrides)
    assert config.optim.freeze == ('conv*',)
    assert config.init_from == str(tmp_path / 'my runs' / 'vgg_D_384')
    assert config.data.augment.scale_max == 512
    parameters.check_patterns({'conv1_1': {'bias': 0}, 'fc6': {'kernel': 0}}, config.optim)
