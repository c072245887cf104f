"""The tools that the networks are compared with."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests import oracles


@pytest.mark.parametrize(
    ('window', 'strides', 'padding'),
    [
        ((1, 1), (1, 1), 'VALID'),
        ((1, 1), (2, 2), ((0, 0), (0, 0))),
        ((3, 3), (1, 1), 'SAME'),
        ((3, 3), (2, 2), 'SAME'),
        ((5, 3), (2, 3), ((2, 1), (0, 3))),
    ],
)
def test_the_convolution_of_float64_is_that_of_lax(window, strides, padding):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 8, 3)))
        kernel = jnp.asarray(np.random.default_rng(1).normal(size=(*window, 3, 4)))
        settings = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC'), 'feature_group_count': 1}
        plain = lax.conv_general_dilated(x, kernel, strides, padding, **settings)
        ours = oracles.convolution(no_convolution, x, kernel, strides, padding, **settings)
    assert ours.dtype == jnp.float64
    oracles.assert_close(ours, plain, 1e-14)


def no_convolution(*_, **__):
    raise AssertionError('the plain convolution is not used')


@pytest.mark.parametrize(
    'settings',
    [
        {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC'), 'feature_group_count': 2},
        {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC'), 'rhs_dilation': (2, 2)},
        {'dimension_numbers': ('NCHW', 'HWIO', 'NHWC')},
    ],
)
def test_other_convolutions_are_left_to_lax(settings):
    with jax.enable_x64(True), pytest.raises(AssertionError, match='the plain convolution'):
        oracles.convolution(
            no_convolution, jnp.zeros((1, 4, 4, 4)), jnp.zeros((1, 1, 4, 4)), (1, 1), 'SAME',
            **settings,
        )  # fmt: skip


def test_accelerators_are_given_no_options_of_cpus(monkeypatch):
    """They refuse options with xla_cpu in their names, and compile as they always do."""
    assert oracles.compiler_options('cuda') == oracles.compiler_options('tpu') == {}
    given = []
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(jax, 'jit', lambda function, **settings: given.append(settings))
    oracles.jit(lambda x: x)
    oracles.jit(static_argnames='x')(lambda x: x)
    assert given == [{'compiler_options': {}}, {'compiler_options': {}, 'static_argnames': 'x'}]


def test_options_that_this_xla_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setitem(oracles.QUICK_OPTIONS, 'xla_cpu_dropped_long_ago', True)
    known = oracles.compiler_options.__wrapped__('cpu')
    assert 'xla_backend_optimization_level' in known
    assert 'xla_cpu_dropped_long_ago' not in known
    compiled = jax.jit(lambda x: x + 1, compiler_options=known)
    assert compiled(1) == 2


def test_a_torchvision_whose_extension_loads_is_not_forestalled():
    """It defines the operators itself, once; one more definition of them is an error."""
    program = """
import torch
extension = torch.library.Library('torchvision', 'FRAGMENT')
loaded = []
def load(path):
    if not loaded:
        for name in ('nms', 'qnms'):
            extension.define(name + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    loaded.append(path)
torch.ops.load_library = load
from tests import oracles
oracles.declare_missing_operators()
torch.ops.load_library('as torchvision does when it is imported')
assert len(loaded) > 1
"""
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tests_that_need_more_devices_are_skipped_and_say_so():
    oracles.need_devices(jax.device_count())
    with pytest.raises(pytest.skip.Exception, match='needs 1000 devices, cpu has'):
        oracles.need_devices(1000)


def test_the_margin_is_the_tolerance_over_the_difference(monkeypatch):
    monkeypatch.setattr(oracles, 'margins', [])
    near = functools.partial(oracles.assert_close, np.array([1.0, 2.0 + 1e-10]))
    near(np.array([1.0, 2.0]))
    assert oracles.margins[0][0] == pytest.approx(20, rel=1e-3)
    assert oracles.margins[0][1].endswith('test_the_margin_is_the_tolerance_over_the_difference')
    with pytest.raises(AssertionError, match='relative difference 5'):
        near(np.array([1.0, 2.0]), 1e-12)
    near(np.array([1.0, 2.0 + 1e-10], np.float32))  # float32 may err by more
