"""Xception, Chollet 2017: `xception`, `fc` (two fully connected layers of 4,096 units before the
classifier), `relu` and `elu` (an activation between the depthwise and the pointwise convolution).

Command:   python train.py --config=configs/xception.py:xception --workdir=DIR
           --config.data.dir=TFDS_DIR
Hardware:  the paper: 60 K80 GPUs, about 3 days (section 4.4).
Expected:  ILSVRC-2012 validation without the blacklisted images, one 299x299 crop, top-1 / top-5
           error (table 1): 21.0 / 5.5. `fc` is printed for JFT only (table 2: MAP@100 6.78 against
           6.70 without), `relu` and `elu` as curves that stay below `xception` (figure 10).
Departures: not printed, hence ours: 2,048 images in a step (60 GPUs with Inception V3's 32 each
           would be 1,920); 180 epochs (table 3's 28 steps a second, of 32 images, for 3 days); the
           decay of the Polyak average; augmentation and the test scale, which are Inception's: a
           random area and aspect, a centre crop of 7/8 of the image. All validation images are
           counted, also the blacklisted. The average is TensorFlow's, which the paper names:
           update n decays by min(0.9999, (1 + n) / (10 + n)), and statistics of batch
           normalisation are averaged with the parameters; those of each batch, where Inception's
           code averages the running ones once more (the same, but for 100 steps of 10,000).
           Weight decay is on kernels, and its gradient is 1e-5 w: the paper sets its rate beside
           Inception V3's 4e-5, which that network's TensorFlow code gives to l2_loss, half the sum
           of squares. If it was Keras' regularizers.l2(1e-5), the gradient was 2e-5 w:
           `--config.optim.weight_decay=2e-5`.
"""

import ml_collections

from cnn_arch.models.xception import BATCH_NORM
from cnn_arch.models.xception import VARIANTS as NETWORKS
from configs import base


def get_config(variant: str = 'xception') -> ml_collections.ConfigDict:
    """Sections 4.2 and 4.3, the settings for ImageNet."""
    config = base.get_config()
    config.model.name = 'xception'
    config.model.variant = variant
    fields = NETWORKS.get(variant, {})
    config.model.options.dropout = 0.5  # before the classifier
    config.model.options.fc_units = fields.get('fc_units', ())
    config.model.options.intermediate = fields.get('intermediate', 'none')
    config.model.batch_norm.momentum = BATCH_NORM.momentum
    config.model.batch_norm.epsilon = BATCH_NORM.epsilon

    config.data.mean = (127.5, 127.5, 127.5)
    config.data.std = (127.5, 127.5, 127.5)
    config.data.augment.size = 299
    config.data.augment.crop = 'random_resized'

    config.optim.learning_rate = 0.045
    config.optim.momentum = 0.9
    config.optim.weight_decay = 1e-5
    config.optim.decay_all = False
    config.optim.polyak_decay = 0.9999
    config.schedule.kind = 'exponential'
    config.schedule.factor = 0.94
    config.schedule.every = 2.0
    config.train.batch_size = 2048
    config.train.epochs = 180.0

    config.eval.protocol = 'center'
    config.eval.scale = 342  # 299 / 0.875
    return config.lock()
