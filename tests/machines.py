"""The comparisons with other implementations, as other machines would compute them.

    python -m tests.machines            every setting, all quick comparisons
    python -m tests.machines --short    two settings, a handful of comparisons

XLA, oneDNN and PyTorch each choose code by the processor and split work by the number of threads;
the settings make them choose as an older processor, or one with fewer cores, would. A setting
passes if every comparison does, the closest one at least tenfold: its difference is at most a tenth
of its tolerance. Prints a table, and exits with 1 if a setting does not pass.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
MARGIN = 10.0

# XLA's own threads cannot be counted out, so one thread is one processor.
SETTINGS: dict[str, dict[str, str]] = {
    'native': {},
    'XLA: AVX2': {'XLA_FLAGS': '--xla_cpu_max_isa=AVX2'},
    'XLA: SSE4.2': {'XLA_FLAGS': '--xla_cpu_max_isa=SSE4_2'},
    'oneDNN: AVX2': {'ONEDNN_MAX_CPU_ISA': 'AVX2'},
    'oneDNN: SSE4.1': {'ONEDNN_MAX_CPU_ISA': 'SSE41'},
    'PyTorch: no vector units': {'ATEN_CPU_CAPABILITY': 'default'},
    '1 thread': {'OMP_NUM_THREADS': '1', 'CPUS': '1'},
    '2 threads': {'OMP_NUM_THREADS': '2', 'CPUS': '2'},
}
SHORT = ('XLA: SSE4.2', 'oneDNN: SSE4.1')

TESTS = ['tests/models', 'tests/weights']
COMPARISONS = 'equal or logits or options or without or against or senet or resnet or float32'
SHORT_TESTS = [
    'tests/models/test_float32.py',
    'tests/models/test_layers_batch_norm.py',
    'tests/weights/test_caffe.py::test_senet[se_resnext50-resnext]',
]


def run(setting: str, arguments: list[str], file: pathlib.Path) -> str:
    """One setting's line of the table; ends in 'no' where it does not pass."""
    environment = {**os.environ, **SETTINGS[setting]}
    command = [sys.executable, '-m', 'pytest', '-q', '-m', 'not slow', f'--margins={file}']
    cpus = environment.pop('CPUS', '')
    start = time.monotonic()
    with file.with_suffix('.log').open('w') as log:
        process = subprocess.Popen(
            [*command, *arguments], cwd=ROOT, env=environment, stdout=log, stderr=log,
            preexec_fn=(lambda: only_processors(int(cpus))) if cpus else None,
        )  # fmt: skip
        code = process.wait()
    seconds = time.monotonic() - start
    found = json.loads(file.read_text()) if file.exists() else {'compared': 0, 'closest': []}
    margin, test = found['closest'][0] if found['closest'] else (0.0, 'nothing was compared')
    good = code == 0 and margin >= MARGIN
    if not good:
        print(file.with_suffix('.log').read_text()[-4000:], file=sys.stderr)
    return (
        f'{setting:26}{found["compared"]:9}{margin:12.4g}{seconds:8.0f} s  {test}  '
        f'{"passed" if good else "no"}'
    )


def only_processors(count: int) -> None:
    """Leaves this process `count` of the processors that it has."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--short', action='store_true', help='two settings, few comparisons')
    short = parser.parse_args().short
    arguments = SHORT_TESTS if short else [*TESTS, '-k', COMPARISONS]
    print(
        f'{"setting":26}{"compared":>9}{"margin":>12}{"time":>10}  closest comparison', flush=True
    )
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for number, setting in enumerate(SHORT if short else SETTINGS):
            lines.append(run(setting, arguments, pathlib.Path(folder) / f'{number}.json'))
            print(lines[-1], flush=True)
    return 0 if all(line.endswith('passed') for line in lines) else 1


if __name__ == '__main__':
    sys.exit(main())
