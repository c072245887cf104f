"""Lines of XLA's text as its TPU and CPU compilers write them."""

import jax
import jax.numpy as jnp
import pytest

from cnn_arch import configuration
from cnn_arch import mesh as meshes
from launch.collectives import Collective, read_collectives, result_bytes


@pytest.mark.parametrize(
    ('shapes', 'size'),
    [
        ('f32[]{:T(128)}', 4),
        ('f32[11,11,3,64]{3,2,1,0:T(4,128)S(1)}', 11 * 11 * 3 * 64 * 4),
        ('(f32[2,3]{1,0}, bf16[4]{0:T(256)}, /*index=2*/pred[8])', 24 + 8 + 8),
        ('u8[16]', 16),
    ],
)
def test_bytes_of_results(shapes: str, size: int) -> None:
    assert result_bytes(shapes) == size


def test_lines_of_the_tpu_compiler() -> None:
    text = """
  %all-reduce.18 = (f32[]{:T(128)}, f32[64]{0:T(128)S(1)}) all-reduce(%a, %b), channel_id=3
  %all-reduce.12 = f32[9216,4096]{1,0:T(8,128)} all-reduce(%fusion.199), channel_id=13
  %get-tuple-element.24 = f32[]{:T(128)} get-tuple-element(%all-reduce.18), index=16
  %ag = (f32[8]{0}, f32[64]{0}) all-gather-start(%p), replica_groups={{0,1}}
  %agd = f32[64]{0} all-gather-done(%ag)
  ROOT %c = bf16[10]{0} collective-permute(%q), source_target_pairs={{0,1}}
"""
    assert read_collectives(text) == [
        Collective('all-reduce', 2, 4 + 64 * 4 + 9216 * 4096 * 4),
        Collective('all-gather', 1, 256),
        Collective('collective-permute', 1, 20),
    ]


def test_a_program_that_is_compiled_here() -> None:
    """A mean over a batch on eight devices is one all-reduce of one number."""
    mesh = meshes.create_mesh(configuration.load('configs/demo.py:lenet5').mesh)
    batch = jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=meshes.batch_sharding(mesh))
    compiled = jax.jit(jnp.sum, out_shardings=meshes.replicated(mesh)).lower(batch).compile()
    assert read_collectives(compiled.as_text()) == [Collective('all-reduce', 1, 4)]
