"""What is validated while training, and what is tested at the end of a run.

Validations come every epoch, show how the run goes and steer plateau schedules; they may use a
cheaper protocol, `train.eval_protocol`. The test is the paper's, `config.eval`; it comes once, at
the end, steers nothing, and is what result.json says.
"""

import dataclasses

import ml_collections

from cnn_arch.errors import UserError
from cnn_arch.evaluation import protocols


def settings(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The configuration that validations are evaluated with.

    `train.eval_protocol` comes with the views and the averages of its own: `eval.views`,
    `eval.average` and `eval.view_average` are the test's.
    """
    if not config.train.eval_protocol:
        return config
    validation = config.copy_and_resolve_references()
    with validation.unlocked():
        validation.eval.protocol = config.train.eval_protocol
        validation.eval.views = ()
        validation.eval.average = ''
        validation.eval.view_average = ''
    return validation


def is_the_test(config: ml_collections.ConfigDict) -> bool:
    """Whether a validation measures what the test does.

    Raises UserError where one of the two is impossible.
    """
    plans = [protocols.resolve(config)]
    try:
        plans.append(protocols.resolve(settings(config)))
    except UserError as error:
        raise UserError(f'train.eval_protocol: {error}') from error
    one, other = (dataclasses.replace(plan, protocol='') for plan in plans)
    return one == other
