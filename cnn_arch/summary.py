"""What a network is made of, without computing it.

    python -m cnn_arch.summary configs/vgg.py:D [--input=384x512] [--json] [--config.key=value]
    python -m cnn_arch.summary --all [--markdown]

The network is traced with abstract values; names and multiply-adds are read from the trace.
Multiply-adds are those of convolutions and matrix products, as the papers count them: one per
kernel weight and output place, borders included, for one image.
"""

import argparse
import collections
import dataclasses
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import ml_collections

from cnn_arch import commands, config_keys, configuration
from cnn_arch.errors import UserError
from cnn_arch.models import build
from cnn_arch.papers import architectures

# Equations of a trace that only call another trace.
CALLS = {'jit', 'closed_call', 'checkpoint', 'custom_jvp_call', 'custom_vjp_call'}
ARITHMETIC_LAYERS = 20  # up to so many layers, the sum of the parameters is printed term by term


@dataclasses.dataclass
class Layer:
    """One row: output shape without the batch, parameters, multiply-adds for one image."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclasses.dataclass
class Summary:
    """A network at one input size [H, W, C]; `depth` as the papers count it (see `_Trace`)."""

    name: str
    input: tuple[int, ...]
    depth: int
    layers: list[Layer]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)


def summarise(
    name: str, config: ml_collections.ConfigDict, size: tuple[int, int] | None = None
) -> Summary:
    """The network of `config` on one image of `size` (height, width), by default as in training.

    A network with fully connected layers is taken as its convolutional form where `size` is not
    the training size. Raises UserError where the network cannot take the size.
    """
    model: Any = build(config.model)
    trained = (config.data.augment.size,) * 2
    size = size or trained
    if size != trained and hasattr(model, 'dense'):
        model = model.clone(dense=True)
    return of_model(name, model, (*size, config.data.channels))


def of_model(name: str, model: Any, image: tuple[int, ...]) -> Summary:
    """The same of a module, on one image [H, W, C]."""
    names: list[str] = []

    # One trace of the initialisation gives the parameters' shapes and the network itself.
    def network(key: jax.Array, images: jax.Array) -> tuple[jax.Array, list[Any], Any]:
        (logits, endpoints), variables = model.init_with_output(key, images)
        arrays = {k: v for k, v in endpoints.items() if isinstance(v, jax.Array)}
        names.extend(arrays)  # in the network's order, which a dictionary in a trace loses
        return logits, list(arrays.values()), variables['params']

    images = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    closed, (_, _, params) = jax.make_jaxpr(network, return_shape=True)(jax.random.key(0), images)
    trace = _Trace(_own_parameters(params))
    depth = trace.walk(closed.jaxpr, [None, 0])[0] or 0
    return Summary(name, image, depth, trace.layers(closed.jaxpr, names))


def _own_parameters(params: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
    """Path of each module with parameters of its own -> how many."""
    own: dict[tuple[str, ...], int] = collections.Counter()
    for key, value in params.items():
        if hasattr(value, 'shape'):
            own[path or (key,)] += math.prod(value.shape)
        else:
            own.update(_own_parameters(value, (*path, key)))
    return own


class _Row(NamedTuple):
    position: int  # of the last equation, among those of the whole network
    shape: tuple[int, ...]
    multiply_adds: int


class _Trace:
    """Walks the equations that depend on the image.

    The depth of a value is the number of convolutions and matrix products on its longest path from
    the image. Two kinds do not count, since the papers do not count them: a depthwise convolution
    (Xception: one layer with the pointwise one that follows) and the layers of a gate that scales
    a map (SENet), which is why a product is as deep as its shallower factor.
    """

    def __init__(self, own: dict[tuple[str, ...], int]):
        self.own = own
        self.rows: dict[tuple[str, ...], _Row] = {}
        self.position = 0
        self.ends: dict[Any, int] = {}  # value -> position of the equation that computes it
        self.filled: dict[Any, int] = {}  # kernel scattered into zeros -> how many weights it has

    def walk(
        self, jaxpr: Any, inputs: Sequence[int | None], outer: tuple[str, ...] = ()
    ) -> list[int | None]:
        """The depths of the outputs from those of the inputs; None = independent of the image."""
        depths = dict(zip(jaxpr.invars, inputs, strict=True))
        depths.update(dict.fromkeys(jaxpr.constvars))

        def depth(atom: Any) -> int | None:
            return None if hasattr(atom, 'val') else depths[atom]

        for equation in jaxpr.eqns:
            self.position += 1
            ins = [depth(atom) for atom in equation.invars]
            if all(d is None for d in ins):
                depths.update(dict.fromkeys(equation.outvars))
                if equation.primitive.name == 'scatter':
                    self.filled[equation.outvars[0]] = equation.invars[2].aval.size
                continue
            stack = equation.source_info.name_stack.stack
            path = (*outer, *(scope.name for scope in stack if hasattr(scope, 'name')))
            depths.update(zip(equation.outvars, self.equation(equation, ins, path), strict=True))
            self.ends.update(dict.fromkeys(equation.outvars, self.position))
            self.record(path, equation)
        return [depth(atom) for atom in jaxpr.outvars]

    def equation(
        self, equation: Any, ins: Sequence[int | None], path: tuple[str, ...]
    ) -> list[int | None]:
        """The depths of an equation's outputs."""
        name = equation.primitive.name
        if name in CALLS:
            inner = equation.params.get('jaxpr') or equation.params['call_jaxpr']
            return self.walk(getattr(inner, 'jaxpr', inner), ins, path)
        if name == 'cond':  # the forms of one operation for several platforms; the last is plain
            return self.walk(equation.params['branches'][-1].jaxpr, ins[1:], path)
        if name in ('scan', 'while'):
            raise NotImplementedError(f'{"/".join(path)}: a loop in a network')
        known = [d for d in ins if d is not None]
        counts = name == 'dot_general' or (
            name == 'conv_general_dilated' and not _is_depthwise(equation)
        )
        deepest = min(known) if name == 'mul' else max(known)
        return [deepest + counts] * len(equation.outvars)

    def record(self, path: tuple[str, ...], equation: Any) -> None:
        scopes = [name.split('.')[0] for name in path[1:]]  # without the network's own class
        for length in range(len(scopes), 0, -1):
            if tuple(scopes[:length]) in self.own:
                scopes = scopes[:length]
                break
        multiply_adds = _multiply_adds(equation)
        if multiply_adds and equation.invars[1] in self.filled:  # a connection table (LeNet)
            kernel = equation.invars[1]
            multiply_adds = multiply_adds * self.filled[kernel] // kernel.aval.size
        module = tuple(scopes)
        if module in self.own or multiply_adds:
            old = self.rows.get(module)
            self.rows[module] = _Row(
                self.position,
                equation.outvars[0].aval.shape[1:],
                multiply_adds + (old.multiply_adds if old else 0),
            )

    def layers(self, jaxpr: Any, endpoints: Sequence[str]) -> list[Layer]:
        """The modules with parameters and, between them, the other endpoints (pooling, ...)."""
        placed = [
            (row.position, Layer(_join(path), row.shape, self.own.get(path, 0), row.multiply_adds))
            for path, row in self.rows.items()
        ]
        unseen = [path for path in self.own if path not in self.rows]
        placed += [(self.position, Layer(_join(path), (), self.own[path], 0)) for path in unseen]
        taken = {layer.name for _, layer in placed}
        for name, atom in zip(endpoints, jaxpr.outvars[1:], strict=False):
            if name not in taken and atom in self.ends:
                placed.append((self.ends[atom], Layer(name, atom.aval.shape[1:], 0, 0)))
        return [layer for _, layer in sorted(placed, key=lambda item: item[0])]


def _join(path: tuple[str, ...]) -> str:
    return '/'.join(path) or 'network'


def _is_depthwise(convolution: Any) -> bool:
    return convolution.params['feature_group_count'] > 1 and _kernel_shape(convolution)[1] == 1


def _kernel_shape(convolution: Any) -> tuple[int, ...]:
    """[output maps, input maps of one group, height, width] of a convolution's kernel."""
    shape = convolution.invars[1].aval.shape
    return tuple(shape[axis] for axis in convolution.params['dimension_numbers'].rhs_spec)


def _multiply_adds(equation: Any) -> int:
    name, out = equation.primitive.name, math.prod(equation.outvars[0].aval.shape)
    if name == 'conv_general_dilated':
        return out * math.prod(_kernel_shape(equation)[1:])
    if name == 'dot_general':
        (contracted, _), _ = equation.params['dimension_numbers']
        shape = equation.invars[0].aval.shape
        return out * math.prod(shape[axis] for axis in contracted)
    return 0


def as_text(summary: Summary) -> str:
    """The layers of one network as an aligned table."""
    rows = [('layer', 'output', 'parameters', 'multiply-adds')]
    for layer in summary.layers:
        rows.append(
            (layer.name, _size(layer.shape), f'{layer.parameters:,}', f'{layer.multiply_adds:,}')
        )
    total = f'{summary.parameters:,}', f'{summary.multiply_adds:,}'
    rows.append(('total', '', *total))
    lines = [f'{summary.name} on {_size(summary.input)}, {summary.depth} layers deep', '']
    lines += _aligned(rows)
    terms = [layer.parameters for layer in summary.layers if layer.parameters]
    if len(terms) <= ARITHMETIC_LAYERS:
        lines += ['', f'parameters: {" + ".join(map(str, terms))} = {summary.parameters}']
    return '\n'.join(lines)


def as_json(summary: Summary) -> str:
    """The same for programs; "parameters" and "multiply_adds" are the sums over the layers."""
    content = {
        'name': summary.name,
        'input': summary.input,
        'parameters': summary.parameters,
        'multiply_adds': summary.multiply_adds,
        'layers': [dataclasses.asdict(layer) for layer in summary.layers],
    }
    return json.dumps(content, indent=2)


def all_networks() -> Iterator[Summary]:
    """Every variant of every paper's config, in the papers' order."""
    order = {paper: place for place, paper in enumerate(architectures.ORDER)}
    paths = configuration.papers()
    for path in sorted(paths, key=lambda path: order.get(path.stem, len(order))):
        for variant in configuration.variants(path):
            yield summarise(f'{path.stem}:{variant}', configuration.load(f'{path}:{variant}'))


def table(summaries: Iterator[Summary], markdown: bool = False) -> str:
    """All networks, one per line: ours and beside it what the paper prints."""
    rows = [('network', 'depth', 'paper', 'parameters', 'paper', 'multiply-adds', 'paper', 'input')]
    notes: list[str] = []
    for summary in summaries:
        printed = architectures.PRINTED.get(summary.name, architectures.Printed())
        mark = ''
        if printed.note:
            notes += [printed.note] if printed.note not in notes else []
            mark = f' [{notes.index(printed.note) + 1}]'
        rows.append((
            f'{summary.name}{mark}',
            str(summary.depth),
            printed.depth or '-',
            f'{summary.parameters:,}',
            printed.parameters or '-',
            f'{summary.multiply_adds / 1e9:.3f} G' if summary.multiply_adds >= 1e7
            else f'{summary.multiply_adds:,}',
            printed.multiply_adds or '-',
            _size(summary.input),
        ))  # fmt: skip
    if markdown:
        lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
        lines.insert(1, '|---' + '|---:' * (len(rows[0]) - 1) + '|')
    else:
        lines = _aligned(rows)
    number = '{}. {}' if markdown else '[{}] {}'  # a list, where lines would run together
    lines += [''] * bool(notes) + [number.format(*item) for item in enumerate(notes, 1)]
    return '\n'.join(lines)


def _size(shape: tuple[int, ...]) -> str:
    return 'x'.join(map(str, shape))


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The first column to the left, the others to the right, each as wide as it must be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        '  '.join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _announced(summaries: Iterator[Summary]) -> Iterator[Summary]:
    """The same, with a sign of life on a terminal: all networks take half a minute."""
    for summary in summaries:
        if sys.stderr.isatty():
            print(f'\r\033[K{summary.name}', end='', file=sys.stderr, flush=True)
        yield summary
    if sys.stderr.isatty():
        print('\r\033[K', end='', file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """One line for a mistake, as everywhere, instead of argparse's own two."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f'{message}: see {self.prog} --help')


def _image_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', text)
    if not match:
        raise UserError(f'--input={text}: give height x width in pixels, for example 384x512')
    return int(match[1]), int(match[2])


def main(argv: Sequence[str]) -> None:
    """The command; raises UserError."""
    parser = _Parser(prog='python -m cnn_arch.summary', allow_abbrev=False)
    parser.add_argument('config', nargs='?', help='FILE.py:VARIANT, for example configs/vgg.py:D')
    parser.add_argument('--input', help='height x width in pixels; default: as in training')
    parser.add_argument('--json', action='store_true', help='for programs')
    parser.add_argument('--all', action='store_true', help='one line for each network')
    parser.add_argument('--markdown', action='store_true', help='with --all: as in the README')
    overrides, rest = commands.split_overrides(argv)
    flags = parser.parse_args(rest)
    if flags.all == bool(flags.config):
        raise UserError('name one configuration, for example configs/vgg.py:D, or give --all')
    if flags.all and (flags.input or flags.json or overrides):
        raise UserError('--all shows every network as in training: it takes only --markdown')
    if flags.all:
        print(table(_announced(all_networks()), flags.markdown))
        return
    path, variant = configuration.split(flags.config)
    config = configuration.load(flags.config)
    commands.apply_overrides(config, overrides)
    configuration.validate(config)
    config_keys.check_read(overrides, ('model.', 'data.augment.size', 'data.channels'))
    size = _image_size(flags.input) if flags.input else None
    summary = summarise(f'{path.stem}:{variant or config.model.variant}', config, size)
    print(as_json(summary) if flags.json else as_text(summary))


if __name__ == '__main__':
    commands.run(main)
