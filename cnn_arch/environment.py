"""What computes: platform, processor, threads, arithmetic and versions; recorded with every number.

The same configuration and seed give the same bits where all of this is the same (docs/numbers.md).
"""

import importlib.metadata
import os
import pathlib
import platform
import re
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

LIBRARIES = ('jax', 'jaxlib', 'libtpu', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy',
             'simplejpeg', 'pillow')  # fmt: skip
# Vector extensions of processors, best first: XLA's name, the flag in /proc/cpuinfo.
EXTENSIONS = (
    ('AMX', 'amx_tile'),
    ('AVX512', 'avx512f'),
    ('AVX2', 'avx2'),
    ('AVX', 'avx'),
    ('SSE4_2', 'sse4_2'),
    ('SVE', 'sve'),
    ('NEON', 'asimd'),
)
# XLA counts the processor's cores unless one of these says otherwise.
THREADS = ('PJRT_NPROC', 'NPROC')
CPUINFO = pathlib.Path('/proc/cpuinfo')
PROJECT = pathlib.Path(__file__).resolve().parents[1] / 'pyproject.toml'


def describe(config: ml_collections.ConfigDict, mesh: Mesh) -> dict[str, Any]:
    """What a run or an evaluation of `config` over `mesh` computes with, as JSON has it.

    `threads` are those that XLA computes with on a CPU; `training` and `evaluation` say the dtype
    of the computation and how products are taken.
    """
    devices = mesh.devices.flat
    return {
        'platform': devices[0].platform,
        'device_kind': devices[0].device_kind,
        'devices': len(devices),
        'processes': jax.process_count(),
        'processor': processor(),
        'vector_extension': vector_extension(),
        'threads': threads(),
        'training': training(config, devices[0].platform),
        'evaluation': evaluation(config, devices[0].platform),
        'xla_flags': ' '.join(sorted(os.environ.get('XLA_FLAGS', '').split())),
        'versions': {'cnn_arch': _own_version(), 'python': platform.python_version(), **versions()},
    }


def line(environment: Mapping[str, Any], evaluation: bool = True) -> str:
    """The parts by which numbers differ, for people; with the arithmetic of an `evaluation`."""
    count = f'{environment["devices"]} {environment["platform"]} device(s)'
    count += f', {environment["processes"]} process(es)'
    where = environment['device_kind']
    if environment['platform'] == 'cpu':
        where = f'{environment["processor"]} ({environment["vector_extension"]})'
        where += f', {environment["threads"]} thread(s)'
    versions = environment['versions']
    return (
        f'{count}, {where}; {environment["evaluation"] + "; " if evaluation else ""}'
        f'jax {versions["jax"]}, cnn_arch {versions["cnn_arch"]}'
    )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """'threads = 1, now 2' for each part that is not the same."""
    result = []
    for key in dict.fromkeys((*before, *now)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            result += [f'{key}.{part}' for part in differences(old, new)]
        elif old != new:
            result.append(f'{key} = {old!r}, now {new!r}')
    return result


def training(config: ml_collections.ConfigDict, platform: str) -> str:
    """'float32, products in TF32': the arithmetic of the training step."""
    asked = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if asked:
        return f'{config.model.dtype}, products by JAX_DEFAULT_MATMUL_PRECISION={asked}'
    return f'{config.model.dtype}, products {_of_unit(config.model.dtype, platform)}'


def evaluation(config: ml_collections.ConfigDict, platform: str) -> str:
    """The same of an evaluation, which `eval.precision` decides."""
    if config.eval.precision == 'fast':
        return f'{config.model.dtype}, products {_of_unit(config.model.dtype, platform)}'
    return 'float32, products in float32'


def _of_unit(dtype: str, platform: str) -> str:
    """How a platform multiplies unless it is asked for more."""
    if dtype == 'float32' and platform in ('gpu', 'cuda'):
        return 'in TF32 where the GPU has it'
    return 'in bfloat16' if platform == 'tpu' else f'in {dtype}'


def versions() -> dict[str, str]:
    """Of the libraries that numbers depend on; 'absent' where one is not installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = 'absent'
    return found


def threads() -> int:
    """Threads that XLA computes with on a CPU."""
    for name in THREADS:
        if os.environ.get(name, '').isdigit():
            return int(os.environ[name])
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The name of the CPU's model."""
    found = re.search(r'^model name\s*:\s*(.+)$', _cpuinfo(), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def vector_extension() -> str:
    """The widest that XLA compiles for: what the CPU has, up to --xla_cpu_max_isa."""
    found = re.search(r'^(?:flags|Features)\s*:\s*(.+)$', _cpuinfo(), re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    names = [name for name, _ in EXTENSIONS]
    most = re.search(r'--xla_cpu_max_isa=(\w+)', os.environ.get('XLA_FLAGS', ''))
    limit = next((n for n in names if most and most[1].upper().startswith(n)), names[0])
    allowed = EXTENSIONS[names.index(limit) :]
    return next((name for name, flag in allowed if flag in flags), 'none')


def _cpuinfo() -> str:
    """'' on systems without one."""
    return CPUINFO.read_text() if CPUINFO.exists() else ''


def _own_version() -> str:
    found = re.search(r'^version = "(.+)"$', PROJECT.read_text(), re.MULTILINE)
    assert found
    return found[1]
