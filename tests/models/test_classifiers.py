"""What classifies is float32 in networks that compute in bfloat16, in every family and form."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from cnn_arch.evaluation import dense
from cnn_arch.models import googlenet, lenet1, lenet5
from cnn_arch.models.layers import FullyConnected, classifier_dtype
from cnn_arch.training import losses
from tests.evaluation import test_ragged

BFLOAT16, FLOAT32 = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)
# (model, side of its images in pixels, their channels)
FAMILIES: dict[str, tuple[Any, int, int]] = {
    'lenet1': (lenet1.LeNet1(**lenet1.VARIANTS['LeNet-1'], num_classes=10), 28, 1),
    'lenet5': (lenet5.LeNet5(**lenet5.VARIANTS['LeNet-5']), 28, 1),
    **{name: (*made, 3) for name, made in test_ragged.FAMILIES.items()},
    'googlenet in training': (googlenet.GoogLeNet(num_classes=7), 224, 3),
}
# What carries scores on after the last product: rounding before it would show in its operands.
PASSES = {'add', 'neg', 'mul', 'tanh', 'reshape', 'broadcast_in_dim', 'squeeze', 'transpose'}


def made_in(jaxpr: Any, variable: Any) -> set[np.dtype]:
    """Dtypes of all that a value was made of, back to the operands of the last product.

    `jaxpr` is followed as far as the operations in PASSES go; what else made a value counts with
    the dtypes of its operands, as a conversion from bfloat16 does.
    """
    makers = {out: equation for equation in jaxpr.eqns for out in equation.outvars}
    found, open_ = set(), [variable]
    while open_:
        value = open_.pop()
        equation = None if isinstance(value, jax.extend.core.Literal) else makers.get(value)
        if equation is None:  # a parameter
            found.add(value.aval.dtype)
        elif equation.primitive.name in PASSES:
            open_ += equation.invars
        else:
            found |= {operand.aval.dtype for operand in equation.invars}
    return found


def logits_of(family: str, dtype: Any, is_dense: bool = False) -> Any:
    """The program that computes the logits, in training the auxiliary ones too."""
    model, side, channels = FAMILIES[family]
    model = model.clone(dtype=dtype)
    if is_dense:
        model = dense.convolutional(model)
    train = family.endswith('training')
    images = jax.ShapeDtypeStruct((2, side, side, channels), FLOAT32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(model.init, key, images)

    def apply(variables: Any, key: Any, images: Any) -> Any:
        logits, endpoints = model.apply(variables, images, train=train, rngs={'dropout': key})
        return [logits, *(endpoints[name] for name in losses.AUXILIARY if name in endpoints)]

    traced = jax.make_jaxpr(apply)(variables, key, images)
    assert len(traced.jaxpr.outvars) == (3 if train else 1)
    return traced.jaxpr


@pytest.mark.parametrize(
    ('family', 'is_dense'),
    [*((family, False) for family in FAMILIES), *((f, True) for f in ('alexnet', 'zfnet', 'vgg'))],
)
def test_logits_are_never_bfloat16(family, is_dense):
    jaxpr = logits_of(family, jnp.bfloat16, is_dense)
    for logits in jaxpr.outvars:
        assert logits.aval.dtype == FLOAT32
        assert made_in(jaxpr, logits) == {FLOAT32}


def test_the_search_sees_rounded_scores():
    def rounded(x: Any, kernel: Any) -> Any:
        return (x @ kernel).astype(jnp.float32) + 1

    x, kernel = jnp.zeros((2, 3), jnp.bfloat16), jnp.zeros((3, 4), jnp.bfloat16)
    jaxpr = jax.make_jaxpr(rounded)(x, kernel).jaxpr
    assert BFLOAT16 in made_in(jaxpr, jaxpr.outvars[0])


@pytest.mark.parametrize('family', [family for family in FAMILIES if 'training' not in family])
def test_float64_is_not_cast_down(family):
    with jax.enable_x64(True):
        jaxpr = logits_of(family, jnp.float64)
        assert [value.aval.dtype for value in jaxpr.outvars] == [jnp.dtype('float64')]


def test_ties_vanish():
    """A thousand classes of a bfloat16 network, whose scores lie close together at the top."""
    rng = np.random.default_rng(0)
    features = jnp.asarray(np.maximum(rng.standard_normal((500, 256)), 0), jnp.bfloat16)

    def tied(dtype: Any) -> float:
        layer = FullyConnected(1000, dtype=dtype)
        logits, _ = layer.init_with_output(jax.random.key(0), features)
        best = np.sort(np.asarray(logits.astype(jnp.float32)), axis=1)
        return float(np.mean(best[:, -1] == best[:, -2]))

    assert tied(jnp.bfloat16) > 0.01
    assert tied(classifier_dtype(jnp.bfloat16)) == 0


@pytest.mark.parametrize('name', losses.LOSSES)
@pytest.mark.parametrize(
    ('dtype', 'expected'), [(jnp.bfloat16, jnp.float32), (jnp.float64, jnp.float64)]
)
def test_the_loss_is_float32_or_more(name, dtype, expected):
    config = ml_collections.ConfigDict(
        {'name': name, 'label_smoothing': 0.1, 'map_j': 0.1, 'auxiliary_weight': 0.3}
    )
    with jax.enable_x64(dtype == jnp.float64):
        logits = jnp.ones((2, 5), dtype)
        endpoints = {'loss1': logits}
        labels = jnp.zeros(2, jnp.int32)
        assert losses.loss(logits, endpoints, labels, config).dtype == expected
