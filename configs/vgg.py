"""VGG, Simonyan & Zisserman 2015: columns A, A-LRN, B, C, D (VGG-16) and E (VGG-19) of table 1.

Command:   python train.py --config=configs/vgg.py:D --workdir=DIR --config.data.dir=TFDS_DIR
Hardware:  the paper: four Titan Black GPUs, two to three weeks per network (section 3.3).
Expected:  ILSVRC-2012 validation, dense evaluation at one scale (table 3), top-1 / top-5 error:
           A 29.6 / 10.4, A-LRN 29.7 / 10.5, B 28.7 / 9.9, C 28.1 / 9.4, D 27.0 / 8.8,
           E 27.3 / 9.0, all trained and tested at S = Q = 256. With scale jitter
           (`--config.data.augment.scale_min=256 --config.data.augment.scale_max=512
           --config.eval.scale=384`): C 27.3 / 8.8, D 25.6 / 8.1, E 25.5 / 8.0.
Decay:     of weights, not of biases: the paper prints the multiplier alone and "generally follows
           Krizhevsky et al.", who decay weights; its code is a branch of Caffe, which decays all
           parameters but whose example networks of that time spare biases. All:
           `--config.optim.decay_all=True`.
Departures: B to E start from Glorot's initialisation, not from a trained A (section 3.1: enough, as
           was found later); nets at S = 384 and with jitter are trained from scratch here, where
           the paper began from the net of S = 256 with rate 0.001, with jitter from that of S = 384
           (use `--config.init_from`). The error that stops falling is that of one centre crop,
           every epoch; whole images, mirrored, cost 3.5 times as much and are the test at the end.
Options:   `--config.optim.freeze='conv*'` trains the fully connected layers alone, as the third net
           of the submission was made with scale jitter (section 4.4).
"""

import ml_collections

from configs import base


def get_config(variant: str = 'D') -> ml_collections.ConfigDict:
    """Sections 3.1 and 3.2."""
    config = base.get_config()
    config.model.name = 'vgg'
    config.model.variant = variant
    config.model.options.dropout = 0.5  # of fc6 and fc7

    config.data.augment.crop = 'isotropic'
    config.data.augment.pca_colour = 0.1

    config.optim.learning_rate = 0.01
    config.optim.momentum = 0.9
    config.optim.weight_decay = 5e-4
    config.optim.decay_all = False
    config.schedule.kind = 'plateau'
    config.schedule.drops = 3
    config.train.batch_size = 256
    config.train.epochs = 74.0  # 370,000 iterations
    config.train.eval_protocol = 'center'

    config.eval.protocol = 'dense'
    config.eval.scale = 256
    return config.lock()
