"""ZFNet, Zeiler & Fergus 2014: `a` (figure 3) and `b` (layers 3 to 5 with 512, 1024, 512 maps).

Command:   python train.py --config=configs/zfnet.py:a --workdir=DIR --config.data.dir=TFDS_DIR
Hardware:  the paper: one GTX 580, about twelve days (section 3).
Expected:  ILSVRC-2012 validation, ten crops, top-1 / top-5 error (table 1; arXiv: table 2):
           a 38.4 / 16.5, b 37.5 / 16.0. Training error, top-1 (table 2; arXiv: table 3): a 33.1,
           b 18.8. With 2,048 units in fc6 and fc7 (`--config.model.options.fc_units=2048`):
           a 40.2 / 17.6; with 8,192: a 38.8 / 17.0, b 38.3 / 16.9.
Departures: the mean of each channel is subtracted, not of each pixel. Training windows are any of
           the central 256x256, where the paper used the ten of its test. "Manually when the
           validation error plateaus" is three evaluations without a gain of 0.1 percent, three
           times, of one centre crop: ten every epoch would cost 13 % of the training; they are the
           test at the end. The paper prints no weight decay, so there is none; Krizhevsky's is
           `--config.optim.weight_decay=5e-4`.
"""

import ml_collections

from configs import base


def get_config(variant: str = 'a') -> ml_collections.ConfigDict:
    """Section 3."""
    config = base.get_config()
    config.model.name = 'zfnet'
    config.model.variant = variant
    config.model.options.dropout = 0.5  # of fc6 and fc7
    config.model.options.fc_units = 4096
    config.model.options.lrn_k = 2.0
    config.model.options.lrn_alpha = 1e-4

    config.data.augment.crop = 'central_square'

    config.optim.rule = 'momentum'
    config.optim.learning_rate = 0.01
    config.optim.momentum = 0.9
    config.optim.weight_decay = 0.0
    config.optim.filter_rms = 0.1
    config.schedule.kind = 'plateau'
    config.schedule.drops = 3
    config.train.batch_size = 128
    config.train.epochs = 70.0
    config.train.eval_protocol = 'center'

    config.eval.protocol = 'ten_crop'
    config.eval.scale = 256
    return config.lock()
