"""Independent implementations to hold the networks against, with the same random weights.

Typical use:

    variables = oracles.random_variables(model, size=224)
    peer = oracles.unfilled_torch(oracles.torchvision().models.alexnet)
    oracles.fill_torch(peer.features[0], variables, 'conv1')
    ...
    logits, endpoints = oracles.in_float64(model)(variables, images)
    oracles.assert_close(logits, oracles.run_torch(peer, images))

Both sides compute in float64, from values that float32 has exactly. How much float32 errs depends
on the processor, the library that it chooses and the number of threads: up to 1.6e-4 of the largest
logit, in PyTorch's convolutions with AVX-512. In float64 the two sides differ by rounding of 1e-13
or by an error of one of them. `float32_bound` then tells what float32 may add, once per family.
"""

import contextlib
import functools
import importlib.util
import os
import pathlib
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Tree = dict[str, Any]

# Compiles in a quarter of the time; what it compiles runs at half the speed, which tests rarely
# notice. For CPUs only, and only what the XLA at hand knows: it has dropped such options before.
QUICK_OPTIONS = {
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
    'xla_cpu_use_fusion_emitters': False,
}


@functools.cache
def compiler_options(platform: str) -> dict[str, Any]:
    """Those of QUICK_OPTIONS that programs for `platform` can be compiled with."""
    if platform != 'cpu':
        return {}
    known = {}
    for name, value in QUICK_OPTIONS.items():
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # "No such compile option"
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
            known[name] = value
    return known


def jit(function: Callable[..., Any] | None = None, **settings: Any) -> Any:
    """`jax.jit` that compiles fast where it can; a decorator, with settings or without."""
    if function is None:
        return functools.partial(jit, **settings)
    options = compiler_options(jax.default_backend())
    return jax.jit(function, compiler_options=options, **settings)


def need_devices(count: int) -> None:
    """Skips the test where there are fewer devices, as on a machine with one accelerator."""
    if jax.device_count() < count:
        import pytest

        pytest.skip(f'needs {count} devices, {jax.default_backend()} has {jax.device_count()}')


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Inside, JAX knows float64, and a CPU convolves in it at the speed of its matrix products.

    Skips the test where the device has no float64.
    """
    if jax.default_backend() == 'tpu':
        import pytest

        pytest.skip('TPUs have no float64')
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        if jax.default_backend() == 'cpu':
            patch = functools.partial(convolution, jax.lax.conv_general_dilated)
            stack.enter_context(mock.patch.object(jax.lax, 'conv_general_dilated', patch))
        yield


def convolution(
    plain: Callable[..., jax.Array],
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Any,
    padding: Any,
    **settings: Any,
) -> jax.Array:
    """`plain`, which is `lax.conv_general_dilated`; of float64 images as one matrix product.

    XLA's CPU backend has only a plain loop for float64, which takes ten to a hundred times as long.
    `test_oracles.py` holds the two against each other.
    """
    (rows, columns), strides = rhs.shape[:2], tuple(window_strides)
    unlike = {
        'feature_group_count': (1,), 'batch_group_count': (1,), 'lhs_dilation': (None, (1, 1)),
        'rhs_dilation': (None, (1, 1)),
    }  # fmt: skip
    names = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, settings.get('dimension_numbers'))
    images_last = names == jax.lax.conv_dimension_numbers(
        lhs.shape, rhs.shape, ('NHWC', 'HWIO', 'NHWC')
    )
    if (
        lhs.dtype != jnp.float64
        or not images_last
        or any(settings.get(name, values[0]) not in values for name, values in unlike.items())
    ):
        return plain(lhs, rhs, strides, padding, **settings)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(lhs.shape[1:3], (rows, columns), strides, padding)
    x = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    height, width = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    patches = [
        x[:, row : row + height : strides[0], column : column + width : strides[1]]
        for row in range(rows)
        for column in range(columns)
    ]
    return jnp.concatenate(patches, axis=-1) @ rhs.reshape(-1, rhs.shape[-1])


def as_float64(tree: Any) -> Any:
    """The tree with its floating-point arrays in float64, in NumPy."""

    def convert(leaf: Any) -> Any:
        leaf = np.asarray(leaf)
        return leaf.astype(np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(convert, tree)


def in_float64(model: nn.Module, **options: Any) -> Callable[..., Any]:
    """`model.apply(variables, images, **options)` in float64, compiled; NumPy's arrays."""
    run = jit(functools.partial(model.clone(dtype=jnp.float64).apply, **options))

    def apply(variables: Tree, images: Any) -> Any:
        with float64():
            return jax.tree.map(np.asarray, run(as_float64(variables), as_float64(images)))

    return apply


@functools.cache
def torchvision() -> types.ModuleType:
    """torchvision, importable where its compiled extension does not load (only models are used)."""
    library = declare_missing_operators()
    import torchvision as module

    module.declared = library  # type: ignore[attr-defined]  # its definitions die with it
    return module


def declare_missing_operators() -> Any:
    """Declares what torchvision's Python part registers implementations for, where it is not there.

    Its compiled extension defines these operators, if it loads; one that loads after they were
    declared ends the process.
    """
    import torch

    package = importlib.util.find_spec('torchvision')
    assert package is not None
    assert package.origin is not None
    for extension in pathlib.Path(package.origin).parent.glob('_C*.so'):
        with contextlib.suppress(OSError):
            torch.ops.load_library(extension)
    library = torch.library.Library('torchvision', 'FRAGMENT')
    for name in ('nms', 'qnms'):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    return library


@functools.cache
def timm() -> types.ModuleType:
    """timm, which needs torchvision."""
    torchvision()
    import timm as module

    return module


def count_parameters(model: nn.Module, size: int | tuple[int, int] = 224, channels: int = 3) -> int:
    """Trainable parameters by shape inference, as training would create them."""
    return tree_size(abstract_variables(model, size, channels)['params'])


def tree_size(tree: Any) -> int:
    """Numbers in a tree of arrays or of their shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def abstract_variables(
    model: nn.Module, size: int | tuple[int, int] = 224, channels: int = 3
) -> Tree:
    """Shapes of what `model.init` in training creates, nothing computed."""
    height, width = (size, size) if isinstance(size, int) else size
    images = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
    keys = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
    return jax.eval_shape(functools.partial(model.init, train=True), keys, images)


def abstract_endpoints(
    model: nn.Module, size: int | tuple[int, int] = 224, channels: int = 3, train: bool = False
) -> Tree:
    """Shapes of the model's endpoints and of its logits (under 'logits'), nothing computed."""
    height, width = (size, size) if isinstance(size, int) else size
    images = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)

    def run(keys: Tree, images: jax.Array) -> Tree:
        (logits, endpoints), _ = model.init_with_output(keys, images, train=train)
        return {**endpoints, 'logits': logits}

    keys = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
    return jax.eval_shape(run, keys, images)


def random_variables(
    model: nn.Module, size: int | tuple[int, int] = 224, channels: int = 3, seed: int = 0
) -> Tree:
    """Random values for all variables, none at a neutral value, in numpy float32.

    Kernels are normal with variance 2 / fan-in, so that signals neither die nor explode; biases,
    and all that batch normalisation owns, differ from 0 and 1 on purpose.
    """
    rng = np.random.default_rng(seed)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name, shape = path[-1].key, leaf.shape
        if name in ('scale', 'var'):
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        values = rng.standard_normal(shape, np.float32)
        if len(shape) > 1:
            return values * np.float32(np.sqrt(2 / np.prod(shape[:-1])))
        return values * np.float32(0.1)

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(model, size, channels))


def random_key(seed: int) -> jax.Array:
    """A key of the generator that compiles fast; the default one costs seconds per network."""
    return jax.random.key(seed, impl='rbg')


def random_images(*shape: int, seed: int = 1) -> np.ndarray:
    """Normalised images [N, H, W, C], float32."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _leaves(variables: Tree, path: str) -> tuple[Tree, Tree]:
    """Parameters and running statistics under a path such as 'inception_3a/5x5'."""
    result = []
    for collection in ('params', 'batch_stats'):
        tree: Tree = variables.get(collection, {})
        for key in path.split('/'):
            tree = tree.get(key, {})
        result.append(tree)
    if not result[0]:
        raise KeyError(f'no parameters at {path}')
    return result[0], result[1]


def unfilled_torch(build: Callable[[], Any]) -> Any:
    """The module that `build` makes, for inference, its tensors not initialised (which is slow).

    It is in float64. Whatever is not filled afterwards is rubbish, and a comparison will show it.
    """
    import torch

    with torch.device('meta'):
        module = build().double()
    return module.to_empty(device='cpu').eval()


def fill_torch(
    module: Any, variables: Tree, path: str, window: tuple[int, int] | None = None
) -> None:
    """Copies our layer at `path` into a torch convolution, linear or batch normalisation layer.

    `window` = (h, w) tells that a linear layer reads a flattened map: ours is flattened from
    [h, w, c], torch's from [c, h, w]. Every tensor of either side must be used.
    """
    import torch

    params, stats = _leaves(variables, path)
    values = {}
    if 'kernel' in params:
        kernel = np.asarray(params['kernel'])
        if kernel.ndim == 4:  # HWIO -> OIHW
            kernel = kernel.transpose(3, 2, 0, 1)
        elif window is not None:
            kernel = kernel.reshape(*window, -1, kernel.shape[-1]).transpose(3, 2, 0, 1)
            kernel = kernel.reshape(kernel.shape[0], -1)
        else:
            kernel = kernel.T
        values['weight'] = kernel.reshape(module.weight.shape)
    if 'scale' in params:
        values['weight'] = params['scale']
        values['running_mean'], values['running_var'] = stats['mean'], stats['var']
    if 'bias' in params:
        values['bias'] = params['bias']
    state = {key: torch.tensor(np.asarray(value)) for key, value in values.items()}
    own = module.state_dict()
    if 'num_batches_tracked' in own:
        state['num_batches_tracked'] = own['num_batches_tracked']
    module.load_state_dict(state)  # strict: every tensor of the layer is given


def run_torch(module: Callable[[Any], Any], images: np.ndarray) -> np.ndarray:
    """The module's output in float64; a map [N, C, H, W] comes back as [N, H, W, C]."""
    import torch

    if isinstance(module, torch.nn.Module):
        module.double()
    images = np.asarray(images, np.float64)
    with torch.inference_mode():
        output = module(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    return output.transpose(0, 2, 3, 1) if output.ndim == 4 else output


def unfilled_keras(build: Callable[..., Any], size: tuple[int, int], **settings: Any) -> Any:
    """The network that `build` makes of a Keras application, for images of `size`, with logits.

    It is in float64. Its kernels are zeros: drawing weights that are not used takes nearly all the
    time of building.
    """
    import keras

    def zeros(self: Any, shape: tuple[int, ...], dtype: Any = None, **_: Any) -> jax.Array:
        return jnp.zeros(shape, dtype)

    with (
        float64_in_keras(),
        mock.patch.object(keras.initializers.VarianceScaling, '__call__', zeros),
    ):
        return build(weights=None, input_shape=(*size, 3), classifier_activation=None, **settings)


@contextlib.contextmanager
def float64_in_keras() -> Iterator[None]:
    """What Keras builds and computes inside is in float64; see `float64`.

    Its type promotion has a table by which float64 becomes float32 where the backend is JAX.
    """
    import keras
    from keras.src.backend.common import dtypes

    policy = keras.config.dtype_policy()
    table = mock.patch.dict(dtypes.BIT64_TO_BIT32_DTYPE, float64='float64')
    with float64(), table:
        keras.config.set_dtype_policy('float64')
        try:
            yield
        finally:
            keras.config.set_dtype_policy(policy)


KERAS_NAMES = {
    'gamma': 'scale',
    'beta': 'bias',
    'moving_mean': 'mean',
    'moving_variance': 'var',
    'bias': 'bias',
    'kernel': 'kernel',
}


def fill_keras(layer: Any, variables: Tree, path: str) -> None:
    """Copies our layer at `path` into a Keras convolution, dense or batch normalisation layer.

    Keras flattens [h, w, c] as we do. Every weight of the Keras layer is set.
    """
    params, stats = _leaves(variables, path)
    ours = {**params, **stats}
    values = []
    for weight in layer.weights:
        value = np.asarray(ours.pop(KERAS_NAMES[weight.name]))
        if value.ndim == 4 and value.shape != weight.shape:
            value = value.swapaxes(2, 3)  # depthwise: [h, w, 1, C] -> [h, w, C, 1]
        values.append(value)
    assert not ours, f'{layer.name} has nothing like {sorted(ours)} of {path}'
    with float64():
        layer.set_weights(values)


def run_keras(model: Any, images: np.ndarray) -> np.ndarray:
    """The Keras model's output at test time in float64, compiled."""

    def forward(trained: list[Any], others: list[Any], images: jax.Array) -> jax.Array:
        return model.stateless_call(trained, others, images)[0]

    groups = (model.trainable_variables, model.non_trainable_variables)
    weights = ([np.asarray(weight.value) for weight in group] for group in groups)
    assert all(weight.dtype == 'float64' for weight in model.weights)
    with float64_in_keras():
        return np.asarray(jit(forward)(*weights, as_float64(images)))


def distance(ours: Any, theirs: Any) -> float:
    """The largest difference of two arrays of equal shape, over the largest value of the second."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    assert np.isfinite(ours).all()
    spread = np.abs(theirs - theirs.mean(axis=0)).max() if len(theirs) > 1 else np.ptp(theirs)
    assert spread > 0, 'the reference does not depend on the image: nothing is compared'
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


# How far inside its tolerance each comparison came out, (tolerance / difference, test): what
# `make test-machines` reports of every setting of the machine.
margins: list[tuple[float, str]] = []


def note_margin(difference: float, tolerance: float) -> None:
    """Adds a comparison to `margins`."""
    test = os.environ.get('PYTEST_CURRENT_TEST', '').removesuffix(' (call)')
    margins.append((tolerance / difference if difference else float('inf'), test))


def assert_close(ours: Any, theirs: Any, relative: float | None = None) -> None:
    """Equal shapes; the largest difference is at most `relative` times the largest value.

    Without `relative` 1e-9, which is rounding in float64, or 1e-4 if a side comes in float32.
    """
    if relative is None:
        exact = all(np.asarray(side).dtype == np.float64 for side in (ours, theirs))
        relative = 1e-9 if exact else 1e-4
    difference = distance(ours, theirs)
    note_margin(difference, relative)
    assert difference <= relative, f'relative difference {difference:.2e}'


FLOAT32_ERROR = 300.0  # of a float32 network, in units of what rounding its inputs does


def float32_bound(
    model: nn.Module, variables: Tree, images: np.ndarray
) -> tuple[np.ndarray, float]:
    """The model's logits in float64, and how far from them float32 may be (for `assert_close`).

    The unit is measured: how far the logits move when each variable and each pixel moves, at
    random, by what rounding to float32 may do to it, but not less than their own last bit. Rounding
    what is between the layers adds some such units. TF32 and bfloat16 round by 2^13 and 2^16 times
    as much.
    """
    rng = np.random.default_rng(0)

    def rounded(leaf: np.ndarray) -> np.ndarray:
        return leaf * (1 + 2.0**-24 * rng.uniform(-1, 1, leaf.shape))

    run = in_float64(model)
    exact, _ = run(variables, images)
    moved, _ = run(jax.tree.map(rounded, as_float64(variables)), rounded(as_float64(images)))
    return exact, FLOAT32_ERROR * max(distance(moved, exact), 2.0**-23)


def step_changes(
    model: nn.Module,
    images: np.ndarray,
    auxiliary_weight: float = 0.0,
    variables: Tree | None = None,
    learning_rate: float = 0.1,
) -> tuple[float, dict[str, float]]:
    """One step of plain gradient descent on softmax cross-entropy with labels 0, 1, 2, ...

    Starts from the model's own initialisation unless `variables` are given. Returns the loss and,
    for each parameter array by its path, the share of its elements that changed.
    """
    keys = {'params': random_key(0), 'dropout': random_key(1)}
    if variables is None:
        variables = jax.jit(functools.partial(model.init, train=True))(keys, images)
    labels = jnp.arange(len(images))

    def loss_of(params: Tree) -> jax.Array:
        (logits, endpoints), _ = model.apply(
            {**variables, 'params': params},
            images,
            train=True,
            rngs={'dropout': random_key(2)},
            mutable=['batch_stats'],
        )
        outputs = [(1.0, logits)]
        outputs += [(auxiliary_weight, endpoints[k]) for k in ('loss1', 'loss2') if k in endpoints]
        picked = [
            weight * jax.nn.log_softmax(scores.astype(jnp.float32))[jnp.arange(len(labels)), labels]
            for weight, scores in outputs
        ]
        return -sum(picked[1:], start=picked[0]).mean()

    @jit
    def step(params: Tree) -> tuple[jax.Array, Tree]:
        loss, gradients = jax.value_and_grad(loss_of)(params)
        return loss, jax.tree.map(
            lambda p, g: jnp.mean(p - learning_rate * g != p), params, gradients
        )

    loss, changed = step(variables['params'])
    shares = {
        jax.tree_util.keystr(path, simple=True, separator='/'): float(share)
        for path, share in jax.tree_util.tree_leaves_with_path(changed)
    }
    return float(loss), shares
