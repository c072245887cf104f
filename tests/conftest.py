"""Settings that every test shares, which must stand before JAX starts; margins, if asked for."""

import json
import os
import pathlib

import pytest

# Eight virtual devices for the sharding tests; a single-device test simply uses the first.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = ' '.join(
    [
        os.environ.get('XLA_FLAGS', ''),
        '--xla_force_host_platform_device_count=8',
        '--xla_cpu_experimental_ynn_fusion_type=-individual_convolution',
    ]
)
os.environ.setdefault('KERAS_BACKEND', 'jax')
if os.environ['JAX_PLATFORMS'] != 'cpu':
    # An accelerator multiplies float32 in TF32 or bfloat16 unless told otherwise.
    os.environ.setdefault('JAX_DEFAULT_MATMUL_PRECISION', 'highest')


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--margins',
        metavar='FILE',
        help='write how far inside their tolerances the closest comparisons came out',
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """How many comparisons there were, and the closest, [tolerance / difference, test], as JSON."""
    file = session.config.getoption('--margins')
    if file:
        from tests import oracles

        found = {'compared': len(oracles.margins), 'closest': sorted(oracles.margins)[:20]}
        pathlib.Path(file).write_text(json.dumps(found, indent=1))
