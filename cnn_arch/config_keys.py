"""What each key of configs/base.py may be, and when it has an effect.

`KEYS` has a line for every key: the values it may have, and under which conditions training and
testing look at it. So an impossible value is an error wherever it comes from, and so is a key that
somebody types and nothing would read; what a configuration file sets without effect (a schedule's
`drops` beside `kind = 'steps'`) is no mistake. The conditions are small functions that answer with
the reason why a key has no effect, '' where it has one.
"""

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Callable, Collection, Iterable
from typing import Any

from ml_collections import ConfigDict as Config

from cnn_arch import models
from cnn_arch.errors import UserError
from cnn_arch.evaluation import precision, protocols
from cnn_arch.models import DTYPES, MODELS, densenet, vgg
from cnn_arch.models.alexnet import AlexNet
from cnn_arch.models.resnet import ResNet
from cnn_arch.training import validation
from cnn_arch.training.losses import LOSSES
from cnn_arch.training.optimisers import RULES
from cnn_arch.training.schedules import KINDS

TRAINING, TESTING = 'training', 'testing'
LARGEST = 2**31 - 1  # of what is an int32 on the devices: steps, images
UNBOUNDED = 3.4e38  # where float32 ends
VALIDATION = ('validation', 'val', 'eval')  # one split under the names that sources have for it
SHOWN = 60  # characters of a value in a message


# ---- what a value may be


@dataclasses.dataclass(frozen=True)
class Domain:
    """The values that a key may have; `allowed` completes "KEY = VALUE: "."""

    allowed: str
    holds: Callable[[Any], bool]


def one_of(*choices: Any) -> Domain:
    names = ', '.join(repr(choice) if choice == '' else str(choice) for choice in choices)
    # By type as well: 1, 1.0 and True are equal.
    holds = lambda value: any(type(value) is type(c) and value == c for c in choices)  # noqa: E731
    return Domain(f'choose one of {names}', holds)


def whole(low: int, high: int = LARGEST) -> Domain:
    """Whole numbers from `low` to `high`."""
    text = f'at least {low}' if low else '0 or more'
    if high < LARGEST:
        text = f'from {low} to {high}'
    return Domain(
        f'it must be a whole number, {text}', lambda v: type(v) is int and low <= v <= high
    )


def number(
    low: float = -math.inf, high: float = math.inf, above: bool = False, below: bool = False
) -> Domain:
    """Finite numbers from `low` to `high`; `above` leaves out the lower end, `below` the upper."""
    ends = []
    if low > -math.inf:
        ends.append(f'above {low:g}' if above else f'{low:g} or more')
    if high < math.inf:
        ends.append(f'below {high:g}' if below else f'at most {high:g}')

    def holds(value: Any) -> bool:
        if type(value) not in (int, float) or not abs(value) < UNBOUNDED:  # nor is nan
            return False
        inside = value > low if above else value >= low
        return inside and (value < high if below else value <= high)

    text = f'it must be a finite number{", " if ends else ""}{" and ".join(ends)}'
    return Domain(text, holds)


def several(each: Domain, count: int = 0, distinct: bool = False, rising: bool = False) -> Domain:
    """Tuples (`count` long, if given) whose elements are of `each`."""
    length = f'{count} values' if count else 'values, separated by commas'
    order = ', each larger than the one before' if rising else ', all different' if distinct else ''

    def holds(value: Any) -> bool:
        if not isinstance(value, tuple | list) or (count and len(value) != count):
            return False
        if not all(each.holds(element) for element in value):
            return False
        if rising and any(a >= b for a, b in itertools.pairwise(value)):
            return False
        return not distinct or len(set(value)) == len(value)

    return Domain(f'expected {length}{order}; of each: {each.allowed}', holds)


def either(*domains: Domain) -> Domain:
    text = '; or '.join(domain.allowed for domain in domains)
    return Domain(text, lambda value: any(domain.holds(value) for domain in domains))


FLAG = Domain('expected true or false', lambda value: type(value) is bool)
TEXT = Domain(
    'expected one line of text', lambda value: isinstance(value, str) and value.isprintable()
)
NAME = Domain(
    'expected a name', lambda value: isinstance(value, str) and value.isprintable() and value != ''
)
ANYTHING = Domain('', lambda value: True)
FACTOR = number(0)
RATE = Domain(
    'a pair of a pattern and a factor of 0 or more, as in "((\'*/bias\',2.0),)"',
    lambda value: (
        isinstance(value, tuple | list)
        and len(value) == 2
        and NAME.holds(value[0])
        and FACTOR.holds(value[1])
    ),
)
SHARE = number(0, 1, below=True)
PIXELS = whole(1, 16_384)


# ---- when a key has an effect

Use = Callable[[Config], str]


def always(config: Config) -> str:
    """The use of a key that is always looked at."""
    return ''


def if_(key: str, *values: Any) -> Use:
    """Where another key has one of these values."""

    def reason(config: Config) -> str:
        value = leaf(config, key)
        return '' if value in values else f'{key} = {value!r}'

    return reason


def unless(key: str, *values: Any) -> Use:
    """Where another key has none of these values."""

    def reason(config: Config) -> str:
        value = leaf(config, key)
        return f'{key} = {value!r}' if value in values else ''

    return reason


def all_of(*uses: Use) -> Use:
    return lambda config: next(filter(None, (use(config) for use in uses)), '')


def _batch_normalised(config: Config) -> str:
    has = getattr(models.build(config.model), 'batch_norm', None)
    return '' if has else f'{_network(config)} has no batch normalisation'


def _with_auxiliary(config: Config) -> str:
    has = getattr(models.build(config.model), 'auxiliary', False)
    return '' if has else f'{_network(config)} has no auxiliary classifiers'


def _normalising_responses(config: Config) -> str:
    network = models.build(config.model)
    if isinstance(network, AlexNet) and not any('norm' in row[-1] for row in network.layers):
        return f'{_network(config)} has no response normalisation'
    return unless('model.options.batch_norm', True)(config)


def _with_hidden_units(config: Config) -> str:
    removed = getattr(models.build(config.model), 'removed', ())
    return f'{_network(config)} has neither fc6 nor fc7' if {6, 7} <= set(removed) else ''


def _padding_shortcuts(config: Config) -> str:
    network = models.build(config.model)
    if isinstance(network, ResNet) and (network.shortcut, network.preactivation) != ('A', 'none'):
        return f'{_network(config)} has no shortcuts of option A'
    return ''


def _pooling_first(config: Config) -> str:
    network = models.build(config.model)
    if isinstance(network, ResNet) and not network.large_images:
        return f'{_network(config)} has no pooling that could overhang'
    return ''


def _network(config: Config) -> str:
    return f'{config.model.name}:{config.model.variant}'


def _warming_up(config: Config) -> str:
    return '' if config.schedule.warmup_until > 0 else 'schedule.warmup_until = 0'


def _dropping_by_factor(config: Config) -> str:
    if config.schedule.kind == 'steps' and config.schedule.rates:
        return 'schedule.rates gives the rates'
    return if_('schedule.kind', 'steps', 'plateau', 'exponential')(config)


def _splits(key: str) -> Use:
    """Where a source has splits that the key chooses from."""

    def reason(config: Config) -> str:
        data = config.data
        if data.source in ('digits', 'digits_scenes'):
            return f'data.source = {data.source!r} has its own two splits'
        if data.source == 'mnist' and (key == 'eval_split' or _has_idx_files(data.dir)):
            return "data.source = 'mnist' has its own two splits"
        root = pathlib.Path(data.dir or '.')
        if data.source == 'folder' and root.is_dir():
            names = {data[key], 'val' if data[key] in VALIDATION else data[key]}
            if not any((root / name).is_dir() for name in names):
                return f'data.dir = {data.dir!r} has no folder {data[key]!r}'
        return ''

    return reason


def _has_idx_files(folder: str) -> bool:
    return any(pathlib.Path(folder or '.').glob('*-ubyte*'))


def _protocol(config: Config) -> protocols.Protocol:
    return protocols.known('eval.protocol', config.eval.protocol, protocols.PROTOCOLS)


def _views(config: Config) -> list[protocols.Views]:
    names = tuple(config.eval.views) or _protocol(config).views
    return [protocols.known('eval.views', name, protocols.VIEWS) for name in names]


def _at_test_scale(config: Config) -> str:
    protocol = _protocol(config)
    if protocol.scales == protocols.TEST_SCALE:
        return ''
    if config.eval.scales:
        where = 'at eval.scales'
    elif isinstance(protocol.scales, str):
        where = f'{protocol.scales} (or at eval.scales)'
    else:
        where = f'at {", ".join(map(str, protocol.scales))} (or at eval.scales)'
    return f'protocol {config.eval.protocol} tests {where}'


def _at_several_scales(config: Config) -> str:
    if _protocol(config).scales == protocols.TEST_SCALE:
        return f'protocol {config.eval.protocol} tests at one scale, eval.scale'
    return ''


def _around_training_scale(config: Config) -> str:
    if _protocol(config).scales != protocols.AROUND_TRAINING:
        return f'protocol {config.eval.protocol} does not test around the training scale'
    return 'eval.scales gives the test scales' if config.eval.scales else ''


def _windows(config: Config) -> str:
    if any(views.places or views.resized for views in _views(config)):
        return ''
    return f'protocol {config.eval.protocol} shows whole images'


def _mirrored(config: Config) -> str:
    if any(views.mirror for views in _views(config)):
        return ''
    return f'protocol {config.eval.protocol} has no mirrored views'


def _score_maps(config: Config) -> str:
    if not any(views.whole for views in _views(config)):
        return f'protocol {config.eval.protocol} shows windows, which have no class score map'
    if _protocol(config).pooling == protocols.SLIDING:
        return ''
    if hasattr(models.build(config.model), 'dense'):
        return ''
    return f'{_network(config)} pools over the whole image before it classifies'


_IN_COLOUR = if_('data.channels', 3)
_SCALED = if_('data.augment.crop', 'isotropic', 'central_square')
_RANDOM_AREA = if_('data.augment.crop', 'random_resized', 'random_sized')
_PCA = all_of(_IN_COLOUR, unless('data.augment.pca_colour', 0.0))


# ---- all keys


@dataclasses.dataclass(frozen=True)
class Key:
    """What a key may be, and the conditions under which training and testing look at it.

    `testing` also counts what must be that of the run that is tested. `recipe` is the condition
    under which the key belongs to how a network was trained, in the sense of a paper: not where its
    data lie, how fast they come, or what is kept.
    """

    domain: Domain
    training: Use | None = always  # None: never
    testing: Use | None = None
    recipe: Use | None = always
    figures: bool = True  # False: no number depends on it


def _everywhere(domain: Domain, use: Use = always) -> Key:
    """Of the network and its input."""
    return Key(domain, use, use)


def _test(domain: Domain, use: Use = always) -> Key:
    """Of the test, which training has, too."""
    return Key(domain, use, use, None)


def _validated(domain: Domain, use: Use) -> Key:
    """Of the test, and of validations by a protocol of their own, which may look where it does not.

    They share neither views nor averages with it, see training/validation.py.
    """
    return Key(domain, lambda config: use(validation.settings(config)) and use(config), use, None)


def _work(domain: Domain, training: Use | None = always, testing: Use | None = always) -> Key:
    """Of how the work is done, whatever the result."""
    return Key(domain, training, testing, None, figures=False)


_BN = _batch_normalised
KEYS: dict[str, Key] = {
    'seed': Key(whole(0, 2**32 - 1), recipe=None),  # JAX keeps 32 bits of it
    'init_from': Key(TEXT),

    'model.name': _everywhere(one_of('', *MODELS)),  # '' is base.py's: no network yet
    'model.variant': _everywhere(TEXT),
    'model.num_classes': _everywhere(whole(1)),
    'model.dtype': _test(one_of(*DTYPES)),
    'model.batch_norm.group_size': _everywhere(whole(1), _BN),
    'model.batch_norm.momentum': _everywhere(SHARE, _BN),
    'model.batch_norm.epsilon': _everywhere(number(0, 1, above=True), _BN),
    'model.batch_norm.precise': Key(whole(0), _BN),
    # Fields of the networks; those of a configuration of your own need no line here.
    'model.options.auxiliary': _everywhere(FLAG),
    'model.options.auxiliary_dropout': _everywhere(SHARE, _with_auxiliary),
    'model.options.batch_norm': _everywhere(FLAG),
    'model.options.bias': _everywhere(number()),
    'model.options.bottleneck': _everywhere(FLAG),
    'model.options.ceil_mode_pool': _everywhere(FLAG, _pooling_first),
    'model.options.compression': _everywhere(number(0, 1, above=True)),
    'model.options.dropout': _everywhere(SHARE, _with_hidden_units),
    'model.options.fc_units': _everywhere(
        either(whole(1), several(whole(1))), _with_hidden_units
    ),
    'model.options.gate_bias': _everywhere(FLAG, unless('model.options.reduction', 0)),
    'model.options.initialisation': _everywhere(
        one_of(*vgg.INITIALISERS, *densenet.INITIALISERS)
    ),
    'model.options.input_size': _everywhere(PIXELS),
    'model.options.intermediate': _everywhere(one_of('none', 'relu', 'elu')),
    'model.options.layers': _everywhere(several(either(whole(1), NAME))),
    'model.options.lrn_alpha': _everywhere(number(0), _normalising_responses),
    'model.options.lrn_k': _everywhere(number(0, above=True), _normalising_responses),
    'model.options.order': _everywhere(
        one_of('relu-lrn-pool', 'relu-pool-lrn'), _normalising_responses
    ),
    'model.options.reduce': _everywhere(FLAG),
    'model.options.reduction': _everywhere(whole(0)),
    'model.options.shortcut_zeros': _everywhere(one_of('after', 'around'), _padding_shortcuts),
    'model.options.zero_init_last': _everywhere(FLAG),

    'loss.name': Key(one_of(*LOSSES)),
    'loss.label_smoothing': Key(SHARE, if_('loss.name', 'softmax')),
    'loss.auxiliary_weight': Key(number(0), _with_auxiliary),
    'loss.map_j': Key(number(), if_('loss.name', 'lenet_map')),

    'data.source': _work(NAME),
    'data.dir': _work(TEXT, unless('data.source', 'digits'), unless('data.source', 'digits')),
    'data.train_split': Key(NAME, _splits('train_split')),
    'data.eval_split': _test(NAME, _splits('eval_split')),
    'data.seed': Key(whole(-1, 2**63 - 1), recipe=None),
    'data.channels': _everywhere(one_of(1, 3)),
    'data.mean': _everywhere(several(number())),
    'data.std': _everywhere(several(number(0, above=True))),
    'data.threads': _work(whole(1, 1024)),
    'data.workers': _work(whole(0, 1024), always, None),
    'data.prefetch': _work(whole(1, 65_536)),
    'data.on_bad_image': _work(one_of('stop', 'skip')),

    'data.augment.size': _everywhere(PIXELS),
    'data.augment.crop': Key(
        one_of(
            'isotropic', 'central_square', 'random_resized', 'random_sized', 'padded', 'none'
        ),
        always, _around_training_scale,
    ),
    'data.augment.scale_min': Key(PIXELS, _SCALED, all_of(_SCALED, _around_training_scale)),
    'data.augment.scale_max': Key(PIXELS, _SCALED, all_of(_SCALED, _around_training_scale)),
    'data.augment.area_min': Key(number(0, 1, above=True), _RANDOM_AREA),
    'data.augment.area_max': Key(number(0, 1, above=True), _RANDOM_AREA),
    'data.augment.aspect_min': Key(number(0, 100, above=True), _RANDOM_AREA),
    'data.augment.aspect_max': Key(number(0, 100, above=True), _RANDOM_AREA),
    'data.augment.padding': Key(whole(0, 1024), if_('data.augment.crop', 'padded')),
    'data.augment.interpolation': Key(one_of('bilinear', 'bicubic', 'random')),
    'data.augment.mirror': Key(FLAG),
    'data.augment.pca_colour': Key(number(0), _IN_COLOUR),
    'data.augment.pca_eigenvalues': Key(several(number(0), 3), _PCA),
    'data.augment.pca_eigenvectors': Key(several(several(number(-1, 1), 3), 3), _PCA),
    'data.augment.pixel_jitter': Key(number(0, 255), _IN_COLOUR),
    'data.augment.photometric': Key(FLAG, _IN_COLOUR),
    'data.augment.colour_jitter': Key(number(0, 1), _IN_COLOUR),
    'data.augment.rotation': Key(number(0, 180)),
    'data.augment.planar': Key(number(0)),

    'optim.rule': Key(one_of(*RULES)),
    'optim.learning_rate': Key(number(0)),
    'optim.momentum': Key(SHARE),
    'optim.weight_decay': Key(number(0)),
    'optim.decay_all': Key(FLAG, unless('optim.weight_decay', 0.0)),
    'optim.filter_rms': Key(number(0)),
    'optim.polyak_decay': Key(SHARE, always, always),
    'optim.freeze': Key(several(NAME, distinct=True)),
    'optim.rates': Key(several(RATE)),

    'schedule.kind': Key(one_of(*KINDS)),
    'schedule.factor': Key(number(0, above=True), _dropping_by_factor),
    'schedule.boundaries': Key(
        several(number(0, above=True), rising=True), if_('schedule.kind', 'steps')
    ),
    'schedule.rates': Key(several(number(0)), if_('schedule.kind', 'steps')),
    'schedule.every': Key(number(0), if_('schedule.kind', 'exponential')),
    'schedule.drops': Key(whole(0, 1000), if_('schedule.kind', 'plateau')),
    'schedule.patience': Key(whole(1), if_('schedule.kind', 'plateau')),
    'schedule.min_delta': Key(number(0, 100), if_('schedule.kind', 'plateau')),
    'schedule.warmup_rate': Key(number(0), _warming_up),
    'schedule.warmup_until': Key(number(0, 100)),

    'train.batch_size': Key(whole(1, 2**20)),
    'train.update_size': Key(whole(0, 2**20)),
    'train.epochs': Key(number(0), if_('train.steps', 0)),
    'train.steps': Key(whole(0)),
    'train.log_every': _work(whole(1), always, None),
    'train.eval_every': Key(whole(0), recipe=if_('schedule.kind', 'plateau')),
    'train.eval_protocol': Key(
        one_of('', *protocols.PROTOCOLS), recipe=if_('schedule.kind', 'plateau')
    ),
    'train.freeze_statistics': Key(number(0), _BN),
    'train.on_nonfinite': _work(one_of('stop', 'skip'), always, None),

    'eval.protocol': _test(one_of(*protocols.PROTOCOLS)),
    'eval.scale': _validated(PIXELS, _at_test_scale),
    'eval.scales': _validated(several(PIXELS, distinct=True), _at_several_scales),
    'eval.crop': _validated(whole(0, 16_384), _windows),
    'eval.views': _test(several(one_of(*protocols.VIEWS), distinct=True)),
    'eval.average': _test(one_of('', *protocols.AVERAGES), _score_maps),
    'eval.view_average': _test(one_of('', *protocols.VIEW_AVERAGES)),
    'eval.mirror': _validated(FLAG, _mirrored),
    'eval.interpolation': _test(one_of('bilinear', 'bicubic')),
    'eval.precision': _test(one_of(*precision.PRODUCTS)),
    'eval.batch_size': _work(whole(1, 2**20)),

    'checkpoint.every': _work(whole(1), always, None),
    'checkpoint.keep': _work(whole(1), always, None),
    'checkpoint.keep_every': _work(whole(0), always, None),
    'checkpoint.grace': _work(number(0, above=True), always, None),

    'mesh.data': _work(either(one_of(-1), whole(1))),
    'mesh.model': _work(whole(1)),
    'mesh.shard_optimiser': _work(FLAG, always, None),
}  # fmt: skip
# Of a field that only somebody's own configuration has.
_OWN = _everywhere(ANYTHING)


def is_seed(name: str) -> bool:
    """Whether a key tells apart runs of one recipe."""
    return name.rpartition('.')[2] == 'seed'


def of(name: str) -> Key:
    """The line of a key."""
    return KEYS.get(name, _OWN) if name.startswith('model.options.') else KEYS[name]


def leaf(config: Config, key: str) -> Any:
    """The value under a dotted key; None where a network has no such option."""
    node: Any = config
    for part in key.split('.'):
        node = node.get(part)
    return node


def check_values(leaves: dict[str, Any]) -> None:
    """Raises UserError for a value that its key cannot have; `leaves` by dotted keys."""
    for key, value in leaves.items():
        domain = of(key).domain
        if not domain.holds(value):
            raise UserError(f'{key} = {shown(value)}: {domain.allowed}')


def check_typed(config: Config, typed: Iterable[tuple[str, str]], uses: Collection[str]) -> None:
    """Raises UserError for a key of the command line that nothing would look at.

    `typed` are the command line's keys and values, `uses` what the command does: TRAINING, TESTING.
    """
    for key, text in typed:
        why = without_effect(config, key, uses)
        if why:
            raise no_effect(key, text, why)


def check_read(typed: Iterable[tuple[str, str]], read: tuple[str, ...]) -> None:
    """Raises UserError for a typed key that does not begin with one of those that are `read`."""
    for key, text in typed:
        if not key.startswith(read):
            raise no_effect(key, text, f'this command reads {", ".join(read)}')


def no_effect(key: str, text: str, why: str) -> UserError:
    """The error of a typed key that nothing looks at."""
    return UserError(f'--config.{key}={shorter(text)} has no effect: {why}; leave it out')


def without_effect(config: Config, key: str, uses: Collection[str]) -> str:
    """Why a key changes nothing in training, testing or both; '' where it does."""
    line, reasons = of(key), []
    for name, use in ((TRAINING, line.training), (TESTING, line.testing)):
        if name not in uses:
            continue
        why = f'{key} acts in training alone' if use is None else use(config)
        if not why:
            return ''
        reasons.append(why)
    return reasons[0] if reasons else ''


def shown(value: Any) -> str:
    """A value in a message."""
    return shorter(repr(value))


def shorter(text: str) -> str:
    """At most SHOWN characters."""
    return text if len(text) <= SHOWN else f'{text[: SHOWN - 3]}...'
