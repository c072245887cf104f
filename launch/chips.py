"""What the TPU chips have, as Google publishes it: the ceilings of a roofline.

Sources: the pages of the chips under docs.cloud.google.com/tpu/docs (v3, v4, v5e, v5p, v6e, tpu7x);
for v2 N. P. Jouppi et al., A Domain-Specific Supercomputer for Training Deep Neural Networks, CACM
63(7), 2020. v5e's bandwidth is 819 GB/s in one form of its page and 800 GiB/s in another.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip: all its cores together."""

    flops: float  # FLOP/s in bfloat16, which is also how the matrix units multiply float32
    bandwidth: float  # bytes/s of its HBM
    hbm: float  # bytes


CHIPS = {
    'v2': Chip(46e12, 700e9, 16 * GIB),
    'v3': Chip(123e12, 900e9, 32 * GIB),
    'v4': Chip(275e12, 1200e9, 32 * GIB),
    'v5e': Chip(197e12, 819e9, 16 * GIB),
    'v5p': Chip(459e12, 2765e9, 95 * GIB),
    'v6e': Chip(918e12, 1638e9, 32 * GIB),
    'tpu7x': Chip(2307e12, 7380e9, 192 * GIB),
}
