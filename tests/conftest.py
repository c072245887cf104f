"""Settings that every test shares; they must stand before JAX starts."""

import os

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
