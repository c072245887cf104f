"""The collectives of a compiled program and the bytes they move, read from its text.

A line of XLA's text is `%name = TYPE operation(operands), attributes`, where TYPE is one array,
`f32[3,3,64]{layout}`, or a tuple of them. An asynchronous collective is a pair `-start` and
`-done`: the second names its result alone, so it is the one that counts.
"""

import collections
import dataclasses
import math
import re

NAMES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
LINE = re.compile(rf' = (.*?) ({"|".join(NAMES)})(-start|-done)?\(')
ARRAY = re.compile(r'\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]')
BITS = re.compile(r'\d+')


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind in a program."""

    kind: str
    count: int
    bytes: int  # of their results on one device


def read_collectives(text: str) -> list[Collective]:
    """By kind, in the order of NAMES; `text` is `compiled.as_text()`."""
    counts: collections.Counter[str] = collections.Counter()
    sizes: collections.Counter[str] = collections.Counter()
    for line in text.splitlines():
        found = LINE.search(line)
        if found is None or found[3] == '-start':
            continue
        counts[found[2]] += 1
        sizes[found[2]] += result_bytes(found[1])
    return [Collective(kind, counts[kind], sizes[kind]) for kind in NAMES if counts[kind]]


def result_bytes(shapes: str) -> int:
    """'(f32[2,3]{1,0}, bf16[4])' -> 32."""
    return sum(
        math.prod(int(size) for size in sizes.split(',') if size) * _bits(dtype) // 8
        for dtype, sizes in ARRAY.findall(shapes)
    )


def _bits(dtype: str) -> int:
    found = BITS.search(dtype)
    return int(found[0]) if found else 8  # pred
