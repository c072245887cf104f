"""Every key of configs/base.py: what it may be, and when it has an effect."""

import argparse
import functools
import math
from typing import Any

import jax
import ml_collections
import pytest

import eval as eval_command
from cnn_arch import commands, config_keys, configuration, models
from cnn_arch.config_keys import KEYS, TESTING, TRAINING
from cnn_arch.configuration import CONFIGS, flatten
from cnn_arch.errors import UserError
from cnn_arch.evaluation import protocols
from cnn_arch.evaluation.tables import set_keys
from cnn_arch.evaluation.views import views_of
from cnn_arch.training import schedules
from configs import base

ADD = (
    "has no line in KEYS of cnn_arch/config_keys.py: add 'KEY': Key(DOMAIN, training=USE, "
    'testing=USE), with the values it may have and the conditions under which training and testing '
    'look at it (_everywhere, _test and _work are short for the usual ones); where a condition is '
    'not `always`, add an example to EXAMPLES here'
)


def load(name: str) -> ml_collections.ConfigDict:
    return configuration.load(str(CONFIGS / name))


def all_configs() -> list[str]:
    paths = [*configuration.papers(), CONFIGS / 'demo.py']
    return [f'{path.name}:{v}' for path in paths for v in configuration.variants(path)]


def test_every_key_has_a_line() -> None:
    wanted = set(flatten(base.get_config()))
    for name in all_configs():
        wanted |= flatten(load(name)).keys()
    for key in sorted(wanted):
        assert key in KEYS, f'{key} {ADD}'
    for key in KEYS:
        assert key in wanted, f'{key} has a line in KEYS, but no configuration has it'


NAN, INF = math.nan, math.inf


def test_no_key_takes_what_nothing_can_be() -> None:
    for key, line in KEYS.items():
        for value in (None, NAN, INF, -INF, 10**40, -(10**40), 1e300, 'a\nb', '\0', {}, (None,),
                      (NAN,), ('\0',), ((INF,),), [1j]):  # fmt: skip
            assert not line.domain.holds(value), (key, value)


@pytest.mark.parametrize(
    'typed',
    [
        'eval.interpolation=nearest', 'loss.label_smoothing=1.5', 'loss.label_smoothing=1',
        'model.batch_norm.momentum=2', 'model.batch_norm.epsilon=0', 'data.std=(0,1,1)',
        'data.std=(1,1,-1)', 'data.mean=(1e999,0,0)', 'data.mean=(True,0,0)', 'data.mean=a,b,c',
        'data.mean=(1,2)', 'optim.learning_rate=-0.1', 'optim.learning_rate=1e999',
        'optim.momentum=1.5', 'optim.momentum=1', 'optim.polyak_decay=1.0', 'optim.rule=sgd',
        'optim.weight_decay=-1', 'optim.filter_rms=-1', 'train.steps=99999999999999999999',
        'train.batch_size=0', 'train.batch_size=-3', 'train.epochs=-1', 'train.log_every=0',
        'seed=12345678901234567890', 'seed=-1', 'seed=4294967296', 'eval.views=ten_crop,ten_crop',
        'eval.views=3', 'eval.views=corner', 'eval.scales=(0,)', 'eval.scales=256,256',
        'eval.scales=256,2.5', 'eval.scales=-256,256', 'eval.scale=0', 'eval.scale=100000',
        'eval.crop=-1', 'eval.average=median', 'eval.protocol=tencrop', 'model.dtype=float16',
        'model.options.dropout=1.0', 'model.options.dropout=-0.5', 'model.variant=',
        'model.variant=F', 'model.name=vgg16', 'data.augment.pca_eigenvalues=(1,2)', 'data.source=',
        'data.augment.pca_eigenvalues=(1,2,-3)', 'data.augment.pca_eigenvectors=(1,2,3)',
        'data.augment.pca_eigenvectors=((1,0,0),(0,1,0))', 'data.augment.scale_min=0',
        'data.augment.crop=square', 'data.augment.interpolation=nearest', 'data.channels=2',
        'data.augment.rotation=200', 'data.augment.planar=-1', 'data.augment.pixel_jitter=-1',
        'data.threads=0', 'data.workers=-1', 'data.on_bad_image=ignore', 'schedule.kind=step',
        'schedule.factor=0', 'schedule.boundaries=60,30', 'schedule.boundaries=0,30',
        'schedule.boundaries=a', 'schedule.patience=0', 'schedule.min_delta=-1',
        'schedule.warmup_until=101', 'schedule.drops=-1', 'mesh.data=0', 'mesh.data=-2',
        'mesh.model=0', 'checkpoint.keep=0', 'checkpoint.grace=0', 'checkpoint.every=0',
        'train.on_nonfinite=ignore', 'loss.name=hinge', 'loss.map_j=-1e400',
        'loss.auxiliary_weight=-0.3', 'model.num_classes=0', 'model.batch_norm.group_size=0',
    ],
)  # fmt: skip
def test_impossible_values_are_one_line(typed: str) -> None:
    """With the key, the value, and what is allowed."""
    key, _, value = typed.partition('=')
    with pytest.raises(UserError) as error:
        parse('vgg.py:D', typed)
    line = str(error.value)
    assert '\n' not in line
    assert key in line
    assert any(word in line for word in ('choose', 'must', 'expected')), line
    assert value.strip('()').split(',')[0].rstrip('0').rstrip('.')[:6] in line or 'inf' in line


def parse(name: str, *typed: str) -> ml_collections.ConfigDict:
    """As train.py reads its command line."""
    words = [f'--config={CONFIGS / name}', *(f'--config.{text}' for text in typed)]
    return commands.parse(argparse.ArgumentParser(), words)[1]


# For each key that has an effect under conditions: (config, keys typed, what it is used for, why
# it has none), and the keys typed with which it has one.
TRAIN_TEST, TEST_ALONE, TRAIN_ALONE = (TRAINING, TESTING), (TESTING,), (TRAINING,)
BN = 'vgg:D has no batch normalisation'
WINDOWS = 'protocol center shows windows'
EXAMPLES = {
    'model.batch_norm.group_size': ('vgg.py:D', (), BN, ('model.name=resnet', 'model.variant=50')),
    'model.batch_norm.momentum': ('vgg.py:D', (), BN, ('model.name=resnet', 'model.variant=50')),
    'model.batch_norm.epsilon': ('vgg.py:D', (), BN, ('model.name=resnet', 'model.variant=50')),
    'model.batch_norm.precise': ('vgg.py:D', (), BN, ('model.name=resnet', 'model.variant=50')),
    'model.options.auxiliary_dropout': (
        'googlenet.py:googlenet', ('model.options.auxiliary=False',), 'no auxiliary classifiers',
        ('model.options.auxiliary=True',),
    ),
    'model.options.gate_bias': (
        'senet.py:resnext50', (), 'model.options.reduction = 0', ('model.options.reduction=16',),
    ),
    'model.options.lrn_alpha': (
        'googlenet.py:googlenet', ('model.options.batch_norm=True',), 'batch_norm = True',
        ('model.options.batch_norm=False',),
    ),
    'model.options.lrn_k': (
        'googlenet.py:googlenet', ('model.options.batch_norm=True',), 'batch_norm = True',
        ('model.options.batch_norm=False',),
    ),
    'model.options.order': (
        'alexnet.py:one_tower', (), 'has no response normalisation', ('model.variant=two_tower',),
    ),
    'model.options.dropout': (
        'alexnet.py:without_6_7', (), 'has neither fc6 nor fc7', ('model.variant=without_7',),
    ),
    'model.options.fc_units': (
        'alexnet.py:without_3_4_6_7', (), 'neither fc6 nor fc7', ('model.variant=without_7',),
    ),
    'model.options.shortcut_zeros': (
        'resnet.py:34', (), '34 has no shortcuts of option A', ('model.variant=34-A',),
    ),
    'model.options.ceil_mode_pool': (
        'resnet.py:cifar-20', (), 'has no pooling that could overhang', ('model.variant=50',),
    ),
    'loss.label_smoothing': ('lenet.py:lenet5', (), "'lenet_map'", ('loss.name=softmax',)),
    'loss.auxiliary_weight': (
        'vgg.py:D', (), 'vgg:D has no auxiliary classifiers',
        ('model.name=googlenet', 'model.variant=googlenet'),
    ),
    'loss.map_j': ('vgg.py:D', (), "loss.name = 'softmax'", ('loss.name=lenet_map',)),
    'data.dir': ('demo.py:lenet5', (), "data.source = 'digits'", ('data.source=mnist',)),
    'data.train_split': (
        'demo.py:lenet5', (), "data.source = 'digits' has its own", ('data.source=cifar10',),
    ),
    'data.eval_split': (
        'demo.py:vgg_fixed', (), "'digits_scenes' has its own", ('data.source=cifar10',),
    ),
    'data.augment.crop': (
        'resnet.py:50', (), 'does not test around the training scale',
        ('eval.protocol=dense_multiscale',),
    ),
    'data.augment.scale_min': (
        'senet.py:se_resnet50', (), "data.augment.crop = 'random_resized'",
        ('data.augment.crop=isotropic', 'eval.protocol=vgg_150'),
    ),
    'data.augment.scale_max': (
        'senet.py:se_resnet50', (), "data.augment.crop = 'random_resized'",
        ('data.augment.crop=isotropic', 'eval.protocol=vgg_150'),
    ),
    **{f'data.augment.{key}': ('vgg.py:D', (), "data.augment.crop = 'isotropic'",
                               ('data.augment.crop=random_resized',))
       for key in ('area_min', 'area_max', 'aspect_min', 'aspect_max')},
    **{f'data.augment.{key}': ('lenet.py:lenet5', (), 'data.channels = 1', ('data.channels=3',))
       for key in ('pca_colour', 'pixel_jitter', 'photometric')},
    'data.augment.padding': (
        'vgg.py:D', (), "data.augment.crop = 'isotropic'", ('data.augment.crop=padded',),
    ),
    **{f'data.augment.{key}': ('senet.py:se_resnet50', (), 'pca_colour = 0.0',
                               ('data.augment.pca_colour=0.1',))
       for key in ('pca_eigenvalues', 'pca_eigenvectors')},
    'data.augment.colour_jitter': (
        'lenet.py:lenet5', (), 'data.channels = 1', ('data.channels=3',),
    ),
    'train.freeze_statistics': ('vgg.py:D', (), BN, ('model.name=resnet', 'model.variant=50')),
    'optim.decay_all': ('zfnet.py:a', (), 'weight_decay = 0.0', ('optim.weight_decay=1e-4',)),
    'schedule.factor': ('demo.py:vgg_fixed', (), "kind = 'cosine'", ('schedule.kind=plateau',)),
    'schedule.boundaries': ('vgg.py:D', (), "kind = 'plateau'", ('schedule.kind=steps',)),
    'schedule.rates': ('vgg.py:D', (), "kind = 'plateau'", ('schedule.kind=steps',)),
    'schedule.every': (
        'densenet.py:121', (), "schedule.kind = 'steps'", ('schedule.kind=exponential',),
    ),
    'schedule.drops': ('densenet.py:121', (), "kind = 'steps'", ('schedule.kind=plateau',)),
    'schedule.patience': ('densenet.py:121', (), "kind = 'steps'", ('schedule.kind=plateau',)),
    'schedule.min_delta': ('densenet.py:121', (), "kind = 'steps'", ('schedule.kind=plateau',)),
    'schedule.warmup_rate': ('vgg.py:D', (), 'warmup_until = 0', ('schedule.warmup_until=80',)),
    'train.epochs': ('vgg.py:D', ('train.steps=10',), 'train.steps = 10', ('train.steps=0',)),
    'eval.scale': (
        'googlenet.py:googlenet', ('train.eval_protocol=',),
        'googlenet_144 tests at 256, 288, 320, 352',
        ('eval.protocol=dense',),
    ),
    'eval.scales': ('vgg.py:D', (), 'dense tests at one scale', ('eval.protocol=googlenet_10',)),
    'eval.crop': ('vgg.py:D', ('train.eval_protocol=',), 'dense shows whole images',
                  ('eval.protocol=ten_crop',)),
    'eval.average': ('senet.py:se_resnet50', (), WINDOWS, ('model.name=vgg', 'model.variant=D',
                                                           'eval.protocol=dense')),
    'eval.mirror': ('lenet.py:lenet5', (), 'no mirrored views', ('eval.protocol=ten_crop',)),
}  # fmt: skip


def changed(name: str, typed: tuple[str, ...]) -> ml_collections.ConfigDict:
    config = load(name)
    with config.model.options.unlocked():
        if any(text.startswith('model.name') for text in typed):
            config.model.options = ml_collections.ConfigDict()
    commands.apply_overrides(config, [tuple(text.split('=')) for text in typed])
    return config


def test_every_condition_has_an_example() -> None:
    conditional = {
        key
        for key, line in KEYS.items()
        if {line.training, line.testing} - {None, config_keys.always}
    }  # fmt: skip
    assert conditional == EXAMPLES.keys(), ADD


@pytest.mark.parametrize('key', EXAMPLES)
def test_keys_have_an_effect_under_their_conditions(key: str) -> None:
    name, typed, why, but = EXAMPLES[key]
    # What training looks at always has an effect there, whatever the test.
    uses = TEST_ALONE if KEYS[key].training is config_keys.always else TRAIN_TEST
    config = changed(name, typed)
    assert why in config_keys.without_effect(config, key, uses)
    with pytest.raises(UserError, match=rf'--config\.{key}=1 has no effect: .*; leave it out'):
        config_keys.check_typed(config, [(key, '1')], uses)
    assert config_keys.without_effect(changed(name, (*typed, *but)), key, uses) == ''


def test_options_of_layers_that_a_variant_lacks() -> None:
    """Each is refused for just the variants whose network the option leaves as it is."""
    values = {'lrn_k': 1.0, 'order': 'relu-pool-lrn', 'fc_units': 8, 'shortcut_zeros': 'around',
              'ceil_mode_pool': True}  # fmt: skip
    for name in ('alexnet.py:tanh', 'alexnet.py:one_tower', 'alexnet.py:without_lrn',
                 'alexnet.py:without_7', 'alexnet.py:without_6_7', 'resnet.py:18-A',
                 'resnet.py:plain18', 'resnet.py:50-v2', 'resnet.py:cifar-20'):  # fmt: skip
        config = load(name)
        images = jax.ShapeDtypeStruct((1, *[config.data.augment.size] * 2, 3), 'float32')

        def traced(config: ml_collections.ConfigDict, images: Any = images) -> str:
            function = functools.partial(models.build(config.model).init_with_output, train=False)
            return str(jax.make_jaxpr(lambda x: function(jax.random.key(0), x)[0][0])(images))

        before = traced(config)
        for option in values.keys() & config.model.options.keys():
            said = config_keys.without_effect(config, f'model.options.{option}', TRAIN_TEST)
            other = config.copy_and_resolve_references()
            other.model.options[option] = values[option]
            assert (traced(other) == before) == bool(said), (name, option, said)


def test_what_training_alone_looks_at_is_refused_by_tests() -> None:
    config = load('vgg.py:D')
    for key, line in KEYS.items():
        why = config_keys.without_effect(config, key, TEST_ALONE)
        assert (why == f'{key} acts in training alone') == (line.testing is None)


class TestProtocols:
    """What config_keys.py says of the keys of tests is what the protocols do."""

    def shown(self, config: ml_collections.ConfigDict) -> tuple:
        """All that a protocol shows a network of an image of 300x400 at each scale."""
        plan = protocols.resolve(config)
        views = views_of(plan)
        boxes = [(v.kind, v.mirrored, v.weight, v.box((700, 900), plan.crop)) for v in views]
        return plan.scales, boxes

    @pytest.mark.parametrize(
        ('key', 'value'),
        [('eval.scale', 300), ('eval.scales', (300, 400)), ('eval.crop', 200),
         ('eval.mirror', False), ('data.augment.scale_max', 512), ('data.augment.scale_min', 250),
         ('eval.views', ('ten_crop', 'whole'))],
    )  # fmt: skip
    def test_an_effect_is_said_where_there_is_one(self, key: str, value: object) -> None:
        for protocol in protocols.PROTOCOLS:
            for scales in ((), (320, 330)):
                config = load('resnet.py:50')
                config.eval.protocol, config.eval.scales = protocol, scales
                before = self.shown(config)
                said = config_keys.without_effect(config, key, TEST_ALONE)
                set_keys(config, {key: value})
                assert (self.shown(config) == before) == bool(said), (protocol, said)


OTHER = {'factor': 0.5, 'boundaries': (1.0, 2.5), 'rates': (0.03, 0.02), 'every': 1.5, 'drops': 1,
         'patience': 1, 'min_delta': 30.0, 'warmup_rate': 0.003}  # fmt: skip


@pytest.mark.parametrize('kind', schedules.KINDS)
def test_schedules_look_at_what_is_said(kind: str) -> None:
    """A key has an effect where the rates of a short run differ with another value."""
    config = load('vgg.py:D')
    config.schedule.kind = kind
    config.schedule.update(boundaries=(2.0, 4.0), every=2.0, warmup_rate=0.001)

    def rates_of(config: ml_collections.ConfigDict) -> list[float]:
        rate = schedules.learning_rate(config, steps_per_epoch=4)
        feedback, found = schedules.initial_feedback(), []
        for step, error in enumerate((90.0, 70.0, 60.0, *[60.0] * 9)):
            found.append(float(rate(2 * step, feedback)))
            feedback = schedules.warmup_update(feedback, 0.0, config.schedule)
            feedback = schedules.plateau_update(feedback, error, config.schedule)
            if schedules.plateau_done(feedback, config.schedule):
                break
        return found

    for rates, warmup in (((), 0.0), ((0.05, 0.01), 80.0)):
        config.schedule.update(rates=rates, warmup_until=warmup)
        before = rates_of(config)
        for key, value in OTHER.items():
            said = config_keys.without_effect(config, f'schedule.{key}', TRAIN_ALONE)
            other = config.copy_and_resolve_references()
            other.schedule[key] = value
            assert (rates_of(other) == before) == bool(said), (key, said)


@pytest.mark.parametrize(
    ('name', 'typed', 'why'),
    [
        ('vgg.py:D', 'data.augment.area_min=0.5', "data.augment.crop = 'isotropic'"),
        ('vgg.py:D', 'schedule.boundaries=30,60', "schedule.kind = 'plateau'"),
        ('densenet.py:121', 'schedule.every=2', "schedule.kind = 'steps'"),
        ('vgg.py:D', 'loss.map_j=0.5', "loss.name = 'softmax'"),
        ('vgg.py:D', 'loss.auxiliary_weight=0.3', 'no auxiliary classifiers'),
        ('vgg.py:D', 'model.batch_norm.epsilon=0.001', 'no batch normalisation'),
        ('demo.py:lenet5', 'data.train_split=train', "data.source = 'digits'"),
        ('resnet.py:50', 'eval.scales=300,400', 'tests at one scale, eval.scale'),
        ('googlenet.py:googlenet', 'eval.average=posteriors', 'no class score map'),
    ],
)
def test_train_refuses_typed_keys_without_effect(name: str, typed: str, why: str) -> None:
    with pytest.raises(UserError) as error:
        parse(name, typed)
    assert f'--config.{typed} has no effect: ' in str(error.value)
    assert why in str(error.value)


def test_a_key_that_validations_alone_look_at_is_taken_in_training() -> None:
    """GoogLeNet's test has scales of its own; its validations are of one crop at eval.scale."""
    assert parse('googlenet.py:googlenet', 'eval.scale=300').eval.scale == 300
    with pytest.raises(UserError, match='has no effect: protocol googlenet_144 tests at 256, 288'):
        parse('googlenet.py:googlenet', 'train.eval_protocol=', 'eval.scale=300')
    parse('alexnet.py:two_tower', 'train.eval_protocol=dense_multiscale', 'eval.scales=300,400')
    parse('resnet.py:50', 'eval.protocol=dense', 'eval.crop=200')


def test_a_key_typed_with_what_gives_it_effect_is_taken() -> None:
    config = parse('vgg.py:D', 'schedule.kind=steps', 'schedule.boundaries=30,60')
    assert config.schedule.boundaries == (30, 60)
    config = parse('vgg.py:D', 'eval.protocol=vgg_dense_multiscale', 'eval.scales=330,360')
    assert config.eval.scales == (330, 360)
    assert parse('vgg.py:D', 'eval.views=ten_crop,whole').eval.views == ('ten_crop', 'whole')


@pytest.mark.parametrize(
    ('typed', 'protocol', 'why'),
    [
        ('eval.scales=330,360', 'dense', 'dense tests at one scale, eval.scale'),
        ('eval.scale=330', 'vgg_150', 'vgg_150 tests around the training scale'),
        ('eval.scale=330', 'googlenet_10', 'googlenet_10 tests at 256'),
        ('eval.crop=128', 'dense', 'dense shows whole images'),
        ('eval.mirror=False', 'center', 'center has no mirrored views'),
        ('data.augment.scale_max=512', 'dense', 'does not test around the training scale'),
        ('data.augment.mirror=False', None, 'acts in training alone'),
        ('optim.learning_rate=0.1', None, 'optim.learning_rate acts in training alone'),
        ('schedule.kind=steps', None, 'acts in training alone'),
        ('train.batch_size=8', None, 'acts in training alone'),
        ('loss.label_smoothing=0.1', None, 'acts in training alone'),
        ('checkpoint.every=8', None, 'acts in training alone'),
        ('data.workers=2', None, 'acts in training alone'),
        ('seed=3', None, 'acts in training alone'),
        ('eval.protocol=center', 'dense', 'are one setting'),
    ],
)
def test_eval_refuses_typed_keys_without_effect(typed: str, protocol: str | None, why: str) -> None:
    config = load('vgg.py:D')
    key, _, value = typed.partition('=')
    commands.apply_overrides(config, [(key, value)])
    with pytest.raises(UserError) as error:
        eval_command.check_typed(config, [(key, value)], protocol)
    assert why in str(error.value)


def test_splits_of_a_folder_must_be_there(tmp_path) -> None:
    (tmp_path / 'val').mkdir()
    config = load('vgg.py:D')
    config.data.source, config.data.dir = 'folder', str(tmp_path)
    for split, why in (('validation', ''), ('val', ''), ('test', "has no folder 'test'")):
        config.data.eval_split = split
        assert why in config_keys.without_effect(config, 'data.eval_split', TEST_ALONE)
        assert bool(why) == bool(config_keys.without_effect(config, 'data.eval_split', TEST_ALONE))


@pytest.mark.parametrize('word', ['--config.seed=1', '--config=a.py', '--step=3', '--out'])
def test_nothing_is_given_twice(word: str) -> None:
    flag = word.partition('=')[0]
    with pytest.raises(UserError, match=rf'^{flag} is given twice$'):
        commands.split_overrides([word, '--x=1', f'{flag}=2'])
    commands.split_overrides([word, f'{flag}s=2'])


def test_messages_are_short() -> None:
    for key, line in KEYS.items():
        assert '\n' not in line.domain.allowed
        assert len(line.domain.allowed) < 400, key
