"""The arithmetic of an evaluation, `config.eval.precision`.

A table's number is the product, so it is computed in float32 in earnest: whatever `model.dtype` the
network was trained in, and with products of float32 that no unit shortens. Accelerators multiply
"float32" in TF32 (NVIDIA, 10 bits of mantissa) or in bfloat16 (TPU, 7 bits) unless they are asked
not to. `fast` takes `model.dtype` and the platform's unit as they come.
"""

import contextlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# What JAX asks of every convolution and matrix product; neither leaves JAX's own setting
# (JAX_DEFAULT_MATMUL_PRECISION) a say, so that the name alone tells what was computed.
PRODUCTS = {'float32': 'highest', 'fast': 'default'}


def arithmetic(model: nn.Module, precision: str) -> nn.Module:
    """The model in the dtype that it is evaluated in."""
    dtype: Any = model.dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    return model if precision == 'fast' or dtype == wide else model.clone(dtype=wide)


def products(precision: str) -> contextlib.AbstractContextManager[None]:
    """What is traced inside multiplies so, whatever JAX's own default; `jit` caches by it."""
    return jax.default_matmul_precision(PRODUCTS[precision])
