"""A stored answer's key: each ingredient changed alone is another key, and what is none is none."""

import dataclasses
from typing import Any

import jax
import ml_collections
import pytest

from cnn_arch import environment, models
from cnn_arch.commands import flatten
from cnn_arch.data import fingerprint
from cnn_arch.evaluation import keys, protocols
from cnn_arch.evaluation.evaluate import evaluate
from configs import base
from tests.evaluation.common import Pictures, mesh_of, random_variables, small_config

# Whatever else the configuration has or will have counts; these are known not to.
FREE = {
    'seed', 'init_from',
    'loss.name', 'loss.label_smoothing', 'loss.auxiliary_weight', 'loss.map_j',
    'data.dir', 'data.train_split', 'data.threads', 'data.workers', 'data.prefetch',
    'data.augment.crop', 'data.augment.scale_min', 'data.augment.scale_max',
    'data.augment.area_min', 'data.augment.mirror', 'data.augment.rotation',
    'optim.rule', 'optim.learning_rate', 'optim.weight_decay',
    'schedule.kind', 'schedule.boundaries',
    'train.batch_size', 'train.epochs', 'train.steps', 'train.eval_every',
    'checkpoint.every', 'checkpoint.keep', 'mesh.shard_optimiser',
}  # fmt: skip
# These are written out, so that none is lost with a change of the rule.
COUNTS = {
    'model.name', 'model.variant', 'model.num_classes', 'model.dtype', 'model.options.fc_units',
    'model.batch_norm.epsilon', 'data.source', 'data.eval_split', 'data.channels', 'data.mean',
    'data.std', 'data.on_bad_image', 'data.augment.size', 'optim.polyak_decay', 'eval.protocol',
    'eval.scale', 'eval.crop', 'eval.views', 'eval.average', 'eval.mirror', 'eval.interpolation',
    'eval.batch_size',
}  # fmt: skip
OTHER = {  # values for which a plan exists
    'eval.protocol': 'ten_crop',
    'eval.views': ('ten_crop',),
    'eval.average': 'posteriors',
    'data.augment.crop': 'central_square',
    'data.channels': 1,
}


class Arrays:
    """Of a network."""

    def __init__(self, digest: str = 'a', checked: str = 'b'):
        self._digest, self._checked = digest, checked

    def digest(self) -> str:
        return self._digest

    def checked(self) -> str:
        return self._checked


def config_of() -> ml_collections.ConfigDict:
    return small_config()


def key_of(
    config: ml_collections.ConfigDict, arrays: Arrays | None = None, data: Any = None
) -> str:
    plan = protocols.resolve(config)
    return keys.key(arrays or Arrays(), config, plan, data or fingerprint.identity(Pictures()))


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value, *(value or (40,)))
    return value + 1 if isinstance(value, int | float) else f'{value}x'


def changed(name: str) -> ml_collections.ConfigDict:
    config = config_of()
    *parents, leaf = name.split('.')
    node = config
    for parent in parents:
        node = node[parent]
    with config.unlocked():
        node[leaf] = OTHER.get(name, other(node[leaf]))
    return config


def test_both_sets_are_keys() -> None:
    assert set(flatten(config_of())) >= FREE | COUNTS


@pytest.mark.parametrize('name', sorted(COUNTS))
def test_each_key_that_counts_is_another_answer(name: str) -> None:
    assert key_of(changed(name)) != key_of(config_of())
    assert key_of(config_of()) == key_of(config_of())


@pytest.mark.parametrize('name', sorted(FREE))
def test_what_has_no_influence_keeps_the_answer(name: str) -> None:
    assert key_of(changed(name)) == key_of(config_of())


def test_scales_of_a_plan_count_where_the_protocol_has_them() -> None:
    """Only as far as they have an effect: the plan is the same for the name of another protocol."""
    config = small_config('dense_multiscale')
    config.data.augment.scale_min = config.data.augment.scale_max = 72
    before = key_of(config)
    config.eval.scales = (40, 72, 104)
    assert protocols.resolve(config).scales == (40, 72, 104)
    assert key_of(config) == before  # the rule gives the same
    config.eval.scales = (40, 72, 105)
    assert key_of(config) != before
    config.eval.scales = ()
    config.data.augment.scale_max = 80
    assert key_of(config) != before
    assert key_of(small_config('vgg_dense')) == key_of(small_config('dense'))


def test_a_key_that_is_new_in_the_configuration_counts() -> None:
    config = config_of()
    before = key_of(config)
    for group in ('eval', 'model', 'data'):
        with config.unlocked():
            config[group]['new'] = 'value'
        assert key_of(config) != before
        before = key_of(config)


def test_reasons_are_of_keys_there_are() -> None:
    leaves = flatten(base.get_config())
    for name, reason in keys.NO_INFLUENCE.items():
        assert reason
        assert any(
            leaf == name or (name.endswith('.') and leaf.startswith(name)) for leaf in leaves
        )
    assert set(keys.INFLUENCE) <= set(leaves)


@pytest.mark.parametrize('part', [*fingerprint.PARTS, 'images', 'names', 'labels', 'contents'])
def test_the_data(part: str) -> None:
    data = fingerprint.identity(Pictures())
    assert part in data
    assert key_of(config_of(), data=data | {part: 'other'}) != key_of(config_of(), data=data)


def test_the_arrays() -> None:
    found = {key_of(config_of(), Arrays(*names)) for names in ('ab', 'xb', 'ax')}
    assert len(found) == 3


ARITHMETIC = {
    'platform': lambda patch: patch.setattr(jax, 'default_backend', lambda: 'gpu'),
    'processor': lambda patch: patch.setattr(environment, 'processor', lambda: 'another'),
    'threads': lambda patch: patch.setattr(environment, 'threads', lambda: 99),
    'flags': lambda patch: patch.setenv('XLA_FLAGS', '--xla_cpu_max_isa=AVX2'),
    'tf32': lambda patch: patch.setenv('NVIDIA_TF32_OVERRIDE', '1'),
    'libtpu': lambda patch: patch.setenv('LIBTPU_INIT_ARGS', '--xla_x'),
    'meaning': lambda patch: patch.setattr(keys, 'MEANING', keys.MEANING + 1),
    'code': lambda patch: patch.setattr(keys, 'code', lambda: 'edited'),
}


@pytest.mark.parametrize('what', ARITHMETIC)
def test_the_arithmetic(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of(config_of())
    ARITHMETIC[what](monkeypatch)
    assert key_of(config_of()) != before


def test_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        device_kind = 'NVIDIA H100'
        client = jax.devices()[0].client

    before = key_of(config_of())
    monkeypatch.setattr(jax, 'devices', lambda: [Device()])
    other_kind = key_of(config_of())
    assert other_kind != before

    class Client:
        platform_version = 'CUDA 13'

    monkeypatch.setattr(Device, 'client', Client())
    assert key_of(config_of()) not in (before, other_kind)


@pytest.mark.parametrize('library', keys.LIBRARIES)
def test_the_libraries(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, version = key_of(config_of()), keys.importlib.metadata.version
    monkeypatch.setattr(
        keys.importlib.metadata, 'version', lambda name: '0' if name == library else version(name)
    )
    assert key_of(config_of()) != before


def test_the_precision() -> None:
    found = {key_of(config_of())}
    for precision in ('highest', 'bfloat16'):
        with jax.default_matmul_precision(precision):
            found.add(key_of(config_of()))
    assert len(found) == 3


def test_the_number_of_devices_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('XLA_FLAGS', '')
    before = key_of(config_of())
    monkeypatch.setenv('XLA_FLAGS', f'{keys.DEVICE_COUNT}=4')
    assert key_of(config_of()) == before


def test_the_code_is_that_of_the_files(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(keys, 'PACKAGE', tmp_path)
    monkeypatch.setattr(keys, 'CODE', ('models', 'mesh.py'))
    (tmp_path / 'models').mkdir()
    files = [tmp_path / 'models' / 'vgg.py', tmp_path / 'mesh.py']
    for file in files:
        file.write_text('x = 1')
    found = {keys.code.__wrapped__()}
    for file in files:
        file.write_text('x = 2')
        found.add(keys.code.__wrapped__())
    assert len(found) == 3


class Reads:
    """What is read of a configuration and of its frozen copies."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self._found: list[tuple[Any, str]] = []  # a node, kept alive, and the name read of it
        self._copies: list[ml_collections.FrozenConfigDict] = []
        self._copying = False
        get, freeze = (
            ml_collections.ConfigDict.__getitem__,
            ml_collections.FrozenConfigDict.__init__,
        )

        def note(node, name):
            if not self._copying:
                self._found.append((node, name))
            return get(node, name)

        def quietly(node, *arguments, **named):
            self._copying, before = True, self._copying
            freeze(node, *arguments, **named)
            self._copying = before
            self._copies.append(node)

        patch.setattr(ml_collections.ConfigDict, '__getitem__', note)
        patch.setattr(ml_collections.FrozenConfigDict, '__init__', quietly)

    def of(self, config: ml_collections.ConfigDict) -> set[str]:
        """The dotted keys that were read."""
        found, names = list(self._found), {}

        def name(node: ml_collections.ConfigDict, prefix: str) -> None:
            names[id(node)] = prefix
            for key, value in node.items():
                if isinstance(value, ml_collections.ConfigDict):
                    name(value, f'{prefix}{key}.')

        name(config, '')
        for copy in self._copies:
            if set(copy.keys()) == set(config.data.keys()):
                name(copy, 'data.')
        read = {names[id(node)] + key for node, key in found if id(node) in names}
        return read & set(flatten(config))


@pytest.mark.parametrize('protocol', ['center', 'dense_multiscale'])
def test_an_evaluation_reads_no_key_that_is_left_out(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for those that say how fast pictures are read, and those whose effect the plan has."""
    config = small_config(protocol)
    config.eval.scales = (40, 44)
    config.data.mean = (1.5, 2.5, 3.5)  # nothing that another test has compiled serves
    model = models.build(config.model)
    variables = random_variables(model, 32)
    reads = Reads(monkeypatch)
    evaluate(model, variables, Pictures([(44, 50)] * 3), config, mesh_of(1))
    read = reads.of(config)
    assert read >= {'eval.batch_size', 'eval.interpolation', 'eval.protocol', 'data.mean'}
    resolved = {f'eval.{field.name}' for field in dataclasses.fields(protocols.Plan)} | {
        'eval.scale', 'data.augment.crop', 'data.augment.scale_min', 'data.augment.scale_max'
    }  # fmt: skip
    left_out = {name for name in read if not keys.matters(name)} - resolved
    assert left_out <= {'data.threads', 'data.prefetch'}
