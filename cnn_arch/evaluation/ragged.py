"""Images of different sizes in one array, each with exactly the scores it gets when alone.

An accelerator compiles a program per shape, and images come in thousands of shapes. So images are
padded at the bottom and the right to a common canvas. Padding would leak: a convolution at the
border of the true image must see zeros, not what earlier layers made of the padding; max pooling
minus infinity; a mean must count the true places only. `RaggedFunction` takes a network as it is
and runs it with every such operand masked beyond each image's own extent.

How it knows the extents: it asks the network. The function is traced (not computed) for images of
a size alone, and the shape of every intermediate value is read off that trace, together with the
padding that each window operation uses at this size (TensorFlow's "same" and Caffe's ceiling mode
depend on it). A trace is periodic in the size with the product of the strides, so that a few dozen
traces serve all sizes. Whatever it cannot do exactly is an error that names the operation.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

HEIGHT, WIDTH = 0, 1
# Added to a size to see which axes depend on it: a multiple of all products of strides in use.
STEP = 960

# Parameters that may differ between traces at two sizes; the rest of a program must not.
SIZE_PARAMETERS = {
    'conv_general_dilated': {'padding'},
    'reduce_window_max': {'padding'},
    'reduce_window_min': {'padding'},
    'reduce_window_sum': {'padding'},
    'pad': {'padding_config'},
    'slice': {'limit_indices'},
    'broadcast_in_dim': {'shape'},
    'reshape': {'new_sizes'},
    'iota': {'shape'},
}
# Each place of the result depends on the same place of the operands alone.
ELEMENTWISE = frozenset((
    'abs', 'add', 'add_any', 'and', 'ceil', 'clamp', 'convert_element_type', 'copy', 'div',
    'eq', 'erf', 'exp', 'exp2', 'expm1', 'floor', 'ge', 'gt', 'integer_pow', 'is_finite', 'le',
    'log', 'log1p', 'logistic', 'lt', 'max', 'min', 'mul', 'ne', 'neg', 'not', 'or', 'pow',
    'reduce_precision', 'rem', 'round', 'rsqrt', 'select_n', 'sign', 'sqrt', 'square',
    'stop_gradient', 'sub', 'tanh', 'xor',
))  # fmt: skip
# What must stand beyond an image's extent: the identity of the operation.
FILL = {
    'conv_general_dilated': 0.0,
    'reduce_window_sum': 0.0,
    'reduce_window_max': -math.inf,
    'reduce_window_min': math.inf,
    'reduce_sum': 0.0,
    'reduce_max': -math.inf,
    'reduce_min': math.inf,
    'global_average_pool': 0.0,
}


class RaggedError(Exception):
    """An operation of a network that cannot be run exactly on padded images."""


@dataclasses.dataclass(frozen=True)
class Op:
    """One operation of a flat program; operands are numbers of values, or constants."""

    number: int
    name: str
    primitive: Any
    params: dict[str, Any]
    operands: tuple[Any, ...]
    results: tuple[int, ...]
    # of a choice by platform: (platforms, operations, numbers of the results)
    branches: tuple[tuple[Any, list['Op'], list[Any]], ...] = ()


@dataclasses.dataclass(frozen=True)
class Constant:
    """An operand that is known when tracing."""

    value: Any


class Program:
    """A traced function without inner functions: `jit`, `custom_jvp` and the like are inlined."""

    def __init__(self, traced: core.ClosedJaxpr):
        self.all_ops: list[Op] = []  # of all branches too, in order
        self.shapes: list[tuple[int, ...]] = []  # of each value
        self.inputs = [self._value(variable) for variable in traced.jaxpr.invars]
        self.ops: list[Op] = []
        self.outputs = self._inline(traced.jaxpr, traced.consts, self.inputs, self.ops)

    def _value(self, variable: Any) -> int:
        self.shapes.append(tuple(variable.aval.shape))
        return len(self.shapes) - 1

    def _add(self, ops: list[Op], **fields: Any) -> Op:
        op = Op(number=len(self.all_ops), **fields)
        self.all_ops.append(op)
        ops.append(op)
        return op

    def _inline(
        self, jaxpr: core.Jaxpr, consts: Sequence[Any], arguments: Sequence[Any], ops: list[Op]
    ) -> list[Any]:
        names: dict[Any, Any] = dict(zip(jaxpr.invars, arguments, strict=True))
        names.update(zip(jaxpr.constvars, map(Constant, consts), strict=True))

        def read(atom: Any) -> Any:
            return Constant(atom.val) if isinstance(atom, core.Literal) else names[atom]

        for equation in jaxpr.eqns:
            operands = tuple(read(atom) for atom in equation.invars)
            results = self._equation(equation, operands, ops)
            names.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, operands: tuple[Any, ...], ops: list[Op]) -> Sequence[Any]:
        name, params = equation.primitive.name, equation.params
        inner = params.get('jaxpr', params.get('call_jaxpr'))
        is_pooling = name == 'jit' and params['name'] == 'global_average_pool'
        if inner is not None and not is_pooling and name in INLINED:
            if isinstance(inner, core.Jaxpr):  # remat's has no constants
                inner = core.ClosedJaxpr(inner, ())
            return self._inline(inner.jaxpr, inner.consts, operands, ops)
        results = tuple(self._value(variable) for variable in equation.outvars)
        branches: list[Any] = []
        if name == 'cond' and params.get('branches_platforms') is not None:
            name, operands = 'platform_dependent', operands[1:]
            for platforms, branch in zip(
                params['branches_platforms'], params['branches'], strict=True
            ):
                inside: list[Op] = []
                outputs = self._inline(branch.jaxpr, branch.consts, operands, inside)
                branches.append((platforms, inside, outputs))
            params = {}
        self._add(
            ops,
            name='global_average_pool' if is_pooling else name,
            primitive=equation.primitive,
            params={} if is_pooling else params,
            operands=operands,
            results=results,
            branches=tuple(branches),
        )
        return results


INLINED = ('jit', 'closed_call', 'core_call', 'custom_jvp_call', 'custom_vjp_call', 'checkpoint')


@dataclasses.dataclass(frozen=True)
class Site:
    """An operation whose first operand must be treated beyond the images' extents."""

    number: int  # of the operation
    index: int  # of the site in a table of facts
    axes: tuple[tuple[int, int], ...]  # (axis of the operand, HEIGHT or WIDTH)
    masked: bool
    # of axes whose padding in front depends on the size: (axis, side, least, most of it)
    shifted: tuple[tuple[int, int, int, int], ...]


class RaggedFunction:
    """`function(variables, images) -> outputs` for images of their own sizes on one canvas.

    `images` is [N, H, W, C]; outputs must not depend on H and W in shape. `base` is the smallest
    size in pixels from which on sizes are taken to be periodic; the function must work there.
    """

    def __init__(
        self,
        function: Callable[[Any, jax.Array], Any],
        variables: Any,
        channels: int,
        dtype: Any,
        base: int,
    ):
        self._function, self._base = function, base
        self._variables = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), variables)
        self._channels, self._dtype = channels, dtype
        self._reference = self._trace(1, base, base)
        grown = [self._trace(1, base + STEP, base), self._trace(1, base, base + STEP)]
        for program in grown:
            check_same(self._reference, program)
        self._axes = [
            _ragged_axes(*shapes)
            for shapes in zip(
                self._reference.shapes, *(program.shapes for program in grown), strict=True
            )
        ]
        self._strides = self._find_strides(grown)
        self.period = math.lcm(*self._strides)
        _check_rules(self._reference, self._axes)
        self._exact: dict[int, np.ndarray] = {}
        self._growth = None
        self.sites = self._find_sites()
        self._growth = self._extents_growth()

    # ---- facts, on the host

    def facts(self, sizes: np.ndarray) -> np.ndarray:
        """int32 [N, sites, 2, 2] for images of int [N, 2] (height, width) pixels.

        The last axes are height and width; extent of the operand and padding in front of it.
        """
        table = np.zeros((len(sizes), len(self.sites), 2, 2), np.int32)
        for side in (HEIGHT, WIDTH):
            lengths, places = np.unique(np.asarray(sizes)[:, side], return_inverse=True)
            rows = [self._facts_of(int(length))[:, side] for length in lengths]
            if rows:
                table[:, :, side] = np.stack(rows)[places]
        return table

    def _facts_of(self, size: int) -> np.ndarray:
        """int [sites, 2, 2] of a square image, by periodicity."""
        periods = max(0, (size - self._base) // self.period)
        exact = self._exact_facts(size - periods * self.period)
        for site in self.sites:
            for axis, side in site.axes:
                _, before, after = exact[site.index, side]
                least, most = next(
                    (tuple(shift[2:]) for shift in site.shifted if shift[0] == axis),
                    (self._reference_padding(site, axis)[0],) * 2,
                )
                if (after > 0 and not site.masked) or not least <= before <= most:
                    raise RaggedError(
                        f'{self._op(site).name}: unforeseen padding {before, after} at size {size}'
                    )
        result = exact[:, :, :2].copy()
        if periods:
            assert self._growth is not None
            result[:, :, 0] += self._growth * (periods * self.period) // STEP
        return result

    def _exact_facts(self, size: int) -> np.ndarray:
        """int [sites, 2, 3]: extent, padding before and after, from a trace at this size."""
        if size not in self._exact:
            program = self._trace(1, size, size)
            check_same(self._reference, program)
            self._exact[size] = self._facts_in(program)
        return self._exact[size]

    def _facts_in(self, program: Program) -> np.ndarray:
        facts = np.zeros((len(self.sites), 2, 3), np.int64)
        for site in self.sites:
            op = program.all_ops[site.number]
            for axis, side in site.axes:
                facts[site.index, side] = (program.shapes[op.operands[0]][axis], *padding(op, axis))
        return facts

    def _extents_growth(self) -> np.ndarray:
        """int [sites, 2]: what STEP more pixels add to each extent."""
        return (self._exact_facts(self._base + STEP) - self._exact_facts(self._base))[:, :, 0]

    def _reference_padding(self, site: Site, axis: int) -> tuple[int, int]:
        return padding(self._op(site), axis)

    def _op(self, site: Site) -> Op:
        return self._reference.all_ops[site.number]

    # ---- structure

    def _trace(self, count: int, height: int, width: int) -> Program:
        images = jax.ShapeDtypeStruct((count, height, width, self._channels), self._dtype)
        return Program(jax.make_jaxpr(self._function)(self._variables, images))

    def _find_strides(self, grown: list[Program]) -> list[int]:
        """The products of strides, in pixels, of all values, in order."""
        strides = {1}
        for number, axes in enumerate(self._axes):
            for axis, side in axes:
                growth = grown[side].shapes[number][axis] - self._reference.shapes[number][axis]
                if growth <= 0 or STEP % growth:
                    raise RaggedError(f'a map grows by {growth} places for {STEP} pixels')
                strides.add(STEP // growth)
        return sorted(strides)

    def _find_sites(self) -> tuple[Site, ...]:
        """Which operations need a mask, and which a shift, seen at sizes of all parities."""
        ops = [
            op
            for op in self._reference.all_ops
            if (op.name in FILL or op.name == 'pad') and _window_axes(op, self._axes)
        ]
        programs = [self._reference]
        # One stride more moves a map to its next size, whose padding may differ.
        for stride, following in itertools.pairwise(self._strides):
            for steps in range(1, -(-following // stride)):
                size = self._base + steps * stride
                programs.append(self._trace(1, size, size))
        for program in programs[1:]:
            check_same(self._reference, program)
        sites: list[Site] = []
        for op in ops:
            axes = _window_axes(op, self._axes)
            seen = [
                [padding(program.all_ops[op.number], axis) for program in programs]
                for axis, _ in axes
            ]
            masked = any(after > 0 for values in seen for _, after in values)
            before = [[before for before, _ in values] for values in seen]
            shifted = tuple(
                (axis, side, min(values), max(values))
                for (axis, side), values in zip(axes, before, strict=True)
                if min(values) < max(values)
            )
            if masked or shifted:
                sites.append(Site(op.number, len(sites), axes, masked, shifted))
        return tuple(sites)

    # ---- running, inside a jitted function

    def __call__(self, variables: Any, images: jax.Array, facts: jax.Array) -> Any:
        """The outputs for images [N, H, W, C] with `facts` of their sizes, [N, sites, 2, 2]."""
        count, height, width, _ = images.shape
        program = self._trace(count, height, width)
        check_same(self._reference, program)
        canvas = self.facts(np.asarray([[height, width]]))[0]
        found = self._facts_in(program)[:, :, :2]
        if not np.array_equal(canvas, found):
            raise RaggedError(f'the maps of an image of {height}x{width} are not as predicted')
        shape = jax.eval_shape(self._function, self._variables, images)
        arguments = [*jax.tree.leaves(variables), images]
        values = dict(zip(program.inputs, arguments, strict=True))
        sites = {site.number: site for site in self.sites}
        run = functools.partial(_run, sites=sites, facts=facts)
        run(program.ops, values)
        outputs = [_read(values, operand) for operand in program.outputs]
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)


def _run(ops: list[Op], values: dict[int, Any], sites: dict[int, Site], facts: jax.Array) -> None:
    """Adds the results of the operations to `values`."""
    for op in ops:
        operands = [_read(values, operand) for operand in op.operands]
        params = op.params
        if op.number in sites:
            site = sites[op.number]
            fill = operands[1] if op.name == 'pad' else FILL[op.name]
            operands[0], params = treat(op, operands[0], fill, facts[:, site.index], site)
        if op.branches:
            results = _run_for_platform(op, values, sites, facts)
        elif op.name == 'global_average_pool':
            results = [_mean(operands[0], sites.get(op.number), facts)]
        else:
            outputs = op.primitive.bind(*operands, **params)
            results = outputs if op.primitive.multiple_results else [outputs]
        values.update(zip(op.results, results, strict=True))


def _mean(x: jax.Array, site: Site | None, facts: jax.Array) -> jax.Array:
    """global_average_pool of [N, H, W, C] that is zero beyond the images' extents."""
    places = jnp.ones((len(x), 1), jnp.float32)
    sides = dict(site.axes) if site else {}
    for axis in (1, 2):
        own = facts[:, site.index, sides[axis], :1] if site and axis in sides else x.shape[axis]
        places = places * own
    return (x.astype(jnp.float32).sum(axis=(1, 2)) / places).astype(x.dtype)


def _run_for_platform(
    op: Op, values: dict[int, Any], sites: dict[int, Site], facts: jax.Array
) -> Any:
    """The branch of the platform that the program is compiled for."""

    def branch(ops: list[Op], outputs: list[Any]) -> Callable[[], Any]:
        def run() -> Any:
            inside = dict(values)
            _run(ops, inside, sites, facts)
            return tuple(_read(inside, output) for output in outputs)

        return run

    choices: dict[str, Callable[[], Any]] = {}
    for platforms, ops, outputs in op.branches:
        for platform in platforms or ('default',):
            choices[platform] = branch(ops, outputs)
    return jax.lax.platform_dependent(**choices)


def _read(values: dict[int, Any], operand: Any) -> Any:
    return operand.value if isinstance(operand, Constant) else values[operand]


def treat(
    op: Op, x: jax.Array, fill: Any, facts: jax.Array, site: Site
) -> tuple[jax.Array, dict[str, Any]]:
    """The operand of a site with `fill` beyond each image's extent; the operation's parameters.

    `facts` int32 [N, 2, 2] of the images. Where the padding in front depends on the size, it comes
    into the operand, and out of the parameters.
    """
    fill, params = jnp.asarray(fill, x.dtype), op.params

    def along(vector: jax.Array, axis: int) -> jax.Array:
        return vector.reshape([-1 if a == axis else 1 for a in range(x.ndim)])

    if site.masked:
        inside = functools.reduce(
            jnp.logical_and,
            (
                along(jnp.arange(x.shape[axis]), axis) < along(facts[:, side, 0], 0)
                for axis, side in site.axes
            ),
        )
        x = jnp.where(inside, x, fill)
    for axis, side, least, most in site.shifted:
        before = along(facts[:, side, 1], 0)
        length = x.shape[axis]
        total = length + sum(padding(op, axis))
        placed = None
        for start in range(least, most + 1):
            pads = [(0, 0, 0)] * x.ndim
            pads[axis] = (start, total - length - start, 0)
            moved = jax.lax.pad(x, fill, pads)
            placed = moved if placed is None else jnp.where(before == start, moved, placed)
        assert placed is not None
        x, params = placed, without_padding(op, axis, params)
    return x, params


# ---- what a program must look like


def check_same(reference: Program, program: Program) -> None:
    """Raises RaggedError unless both are the same operations, up to what may depend on the size."""
    if [op.name for op in reference.all_ops] != [op.name for op in program.all_ops]:
        raise RaggedError('the network does other operations at other image sizes')
    for ours, theirs in zip(reference.all_ops, program.all_ops, strict=True):
        for a, b in zip(ours.operands, theirs.operands, strict=True):
            same = a == b if not isinstance(a, Constant) else _equal_constants(a, b)
            if not same:
                raise RaggedError(
                    f'{ours.name}: an operand depends on the image size; a mean over all places '
                    'must go through layers.global_average_pool'
                )
        for key in ours.params.keys() - SIZE_PARAMETERS.get(ours.name, set()):
            if not _equal_parameters(ours.params[key], theirs.params[key]):
                raise RaggedError(f'{ours.name}: its {key} depends on the image size')


def _equal_constants(a: Constant, b: Any) -> bool:
    return isinstance(b, Constant) and bool(np.array_equal(a.value, b.value, equal_nan=True))


def _equal_parameters(a: Any, b: Any) -> bool:
    if isinstance(a, core.Jaxpr | core.ClosedJaxpr) or callable(a):
        return str(a) == str(b)
    return bool(a == b)


def _ragged_axes(
    reference: tuple[int, ...], taller: tuple[int, ...], wider: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """The axes of a value whose length depends on the images' height or width."""
    axes = []
    for axis, (length, tall, wide) in enumerate(zip(reference, taller, wider, strict=True)):
        if tall != length and wide != length:
            raise RaggedError('a value has height and width in one axis: evaluate densely')
        if tall != length:
            axes.append((axis, HEIGHT))
        if wide != length:
            axes.append((axis, WIDTH))
    return tuple(axes)


def padding(op: Op, axis: int) -> tuple[int, int]:
    """(before, after): places that the operation adds along an axis of its first operand."""
    if op.name == 'conv_general_dilated':
        spatial = op.params['dimension_numbers'].lhs_spec[2:]
        return op.params['padding'][spatial.index(axis)]
    if op.name.startswith('reduce_window'):
        return op.params['padding'][axis]
    if op.name == 'pad':
        return op.params['padding_config'][axis][:2]
    return (0, 1)  # a reduction reads to the end of the canvas


def without_padding(op: Op, axis: int, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters with no padding along an axis of the first operand."""
    key = 'padding_config' if op.name == 'pad' else 'padding'
    pads = list(params[key])
    place = axis
    if op.name == 'conv_general_dilated':
        place = params['dimension_numbers'].lhs_spec[2:].index(axis)
    pads[place] = (0, 0, 0) if op.name == 'pad' else (0, 0)
    return {**params, key: tuple(pads)}


def _window_axes(op: Op, axes: list[tuple[tuple[int, int], ...]]) -> tuple[tuple[int, int], ...]:
    """The ragged axes of the first operand that the operation reads across places of."""
    ragged = _axes_of(op.operands[0], axes)
    if op.name in ('reduce_sum', 'reduce_max', 'reduce_min'):
        # Partly reduced, all of the extents matter: the rest is masked where it is used.
        return tuple((axis, side) for axis, side in ragged if axis in op.params['axes'])
    return ragged


def _axes_of(operand: Any, axes: list[tuple[tuple[int, int], ...]]) -> tuple[tuple[int, int], ...]:
    return () if isinstance(operand, Constant) else axes[operand]


def _check_rules(program: Program, axes: list[tuple[tuple[int, int], ...]]) -> None:
    """Raises RaggedError for an operation that would mix places beyond the rules above."""
    for number in program.outputs:
        if _axes_of(number, axes):
            raise RaggedError('an output has one place per pixel: average it over the places')
    for op in program.all_ops:
        ragged = [_axes_of(operand, axes) for operand in op.operands]
        if not any(ragged) and not any(axes[result] for result in op.results):
            continue
        problem = next(_problems(op, ragged, program, axes), None)
        if problem:
            raise RaggedError(f'{op.name}: {problem}')


def _problems(
    op: Op,
    ragged: list[tuple[tuple[int, int], ...]],
    program: Program,
    axes: list[tuple[tuple[int, int], ...]],
) -> Iterator[str]:
    first = {axis for axis, _ in ragged[0]} if ragged else set()
    for value in (*op.operands, *op.results):
        own = _axes_of(value, axes)
        if own and (own[0][0] == 0 or program.shapes[value][0] != 1):
            yield 'the first axis of a map must be that of the images'
    params = op.params
    if op.name in ELEMENTWISE or op.name in ('broadcast_in_dim', 'platform_dependent', 'iota'):
        return
    if op.name in ('reduce_sum', 'reduce_max', 'reduce_min') and 0 in params['axes']:
        yield 'it mixes the images of a batch'
    if op.name in FILL or op.name in ('pad', 'slice', 'concatenate', 'split', 'squeeze'):
        if any(ragged[1:]) and op.name != 'concatenate':
            yield 'a kernel depends on the image size'
        dimensions = {params.get('dimension', params.get('axis')), *params.get('dimensions', ())}
        if first & dimensions:
            yield 'it joins or splits along height or width'
        if op.name == 'conv_general_dilated':
            spec = params['dimension_numbers'].lhs_spec
            dilation = dict(zip(spec[2:], params['lhs_dilation'], strict=True))
            if not first <= set(spec[2:]) or any(dilation[axis] != 1 for axis in first):
                yield 'only plain convolutions over height and width can be masked'
            if params['batch_group_count'] != 1:
                yield 'groups of images'
        if op.name == 'pad' and any(params['padding_config'][axis][2] for axis in first):
            yield 'padding between places'
        return
    if op.name == 'reshape':
        shape, result = program.shapes[op.operands[0]], program.shapes[op.results[0]]
        last = max(first, default=0) + 1
        if shape[:last] != result[:last] or ragged[0] != axes[op.results[0]]:
            yield 'height or width is merged with another axis: evaluate densely'
        return
    if op.name == 'transpose':
        return
    if op.name == 'dot_general':
        (left, right), (left_batch, right_batch) = params['dimension_numbers']
        used = {*left, *left_batch}, {*right, *right_batch}
        if any(used[side] & {axis for axis, _ in ragged[side]} for side in (0, 1)):
            yield 'a product sums over height or width'
        return
    yield 'no rule for it; it would mix an image with its padding'
