"""DenseNet, Huang et al. 2017: 121, 169, 201, 264 and 161 of table 1, and table 2's for CIFAR.

Command:   python train.py --config=configs/densenet.py:121 --workdir=DIR --config.data.dir=TFDS_DIR
Hardware:  four GPUs of one machine (the authors' README).
Expected:  ILSVRC-2012 validation, one 224x224 crop, top-1 / top-5 error (table 3):
           121 25.02 / 7.71, 169 23.80 / 6.85, 201 22.58 / 6.34, 264 22.15 / 6.12.
           Ten crops (`--protocol=densenet_10`): 121 23.61 / 6.66, 169 22.08 / 5.92,
           201 21.46 / 5.54, 264 20.80 / 5.29. Of 161 the authors' published weights have a top-1
           error of 22.2 with one crop.
           CIFAR-10 without augmentation, test error (table 2, column C10): plain-L40-k12 7.00,
           plain-L100-k12 5.77, plain-L100-k24 5.83, BC-L100-k12 5.92, BC-L250-k24 5.19. With shifts
           and mirroring (C10+; `--config.data.augment.crop=padded --config.data.augment.padding=4
           --config.data.augment.mirror=true --config.model.options.dropout=0.0`): 5.24, 4.10, 3.74,
           4.51, 3.62, BC-L190-k40 3.46. C100 and C100+ are with `--config.data.source=cifar100
           --config.model.num_classes=100`; `python eval.py --table=densenet:2` prints all, and the
           exact command for each row that has not been trained.
The code:  the authors trained and tested with Facebook's Torch code for ResNet (section 4.2 and
           their README), which is followed where the paper does not say: crops by `random_sized`;
           brightness, contrast and saturation changed by up to 0.4, then Krizhevsky's noise of
           colour with 0.1; cubic interpolation; ten crops from the corners of the whole image,
           whose scores are summed (`--protocol=ten_crop` takes Krizhevsky's, from the central
           square, and averages posteriors). 161: a batch of 128 to fit its GPUs' memory, hence 100
           epochs and one more drop at 90 (conference print, section 4.2).
Decay:     of all parameters, biases and normalisation among them: the paper says "a weight decay
           of 10^-4" of nothing in particular, and Torch's optim.sgd knows no exceptions.
           `--config.optim.decay_all=False` spares them.
Departures: Torch's cubic interpolation reads 4x4 pixels at any reduction and aligns the pixels in
           the corners; here, as everywhere in this project, it is widened by the factor of
           reduction. An odd margin beside the centre crop is halved downwards, in Torch upwards.
Options:   without bottlenecks or compression: `--config.model.options.bottleneck=false`,
           `--config.model.options.compression=1.0`. Initialisation by fan-in, as in the authors'
           earlier file: `--config.model.options.initialisation=fan_in`.
"""

import ml_collections

from cnn_arch.models.densenet import VARIANTS as NETWORKS
from configs import base

VARIANTS = tuple(NETWORKS)


def get_config(variant: str = '121') -> ml_collections.ConfigDict:
    """Section 4.2: both recipes share the optimiser."""
    config = base.get_config()
    config.model.name = 'densenet'
    config.model.variant = variant
    config.model.options.bottleneck = NETWORKS[variant].get('bottleneck', True)
    config.model.options.compression = NETWORKS[variant].get('compression', 0.5)
    config.model.options.initialisation = 'fan_out'

    config.optim.rule = 'nesterov'
    config.optim.learning_rate = 0.1
    config.optim.momentum = 0.9
    config.optim.weight_decay = 1e-4
    config.optim.decay_all = True
    config.schedule.kind = 'steps'
    if 'L' in variant:
        _cifar(config)
    else:
        _imagenet(config)
    return config.lock()


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.model.options.dropout = 0.0
    config.data.mean = (123.675, 116.28, 103.53)
    config.data.std = (58.395, 57.12, 57.375)
    config.data.augment.crop = 'random_sized'
    config.data.augment.interpolation = 'bicubic'
    config.data.augment.colour_jitter = 0.4
    config.data.augment.pca_colour = 0.1
    config.schedule.boundaries = (30.0, 60.0)
    config.train.batch_size = 256
    config.train.epochs = 90.0
    if config.model.variant == '161':
        config.schedule.boundaries = (30.0, 60.0, 90.0)
        config.train.batch_size = 128
        config.train.epochs = 100.0
    config.eval.protocol = 'center'
    config.eval.scale = 256
    config.eval.interpolation = 'bicubic'


def _cifar(config: ml_collections.ConfigDict) -> None:
    """CIFAR-10 as it is, which is where the paper uses dropout."""
    config.model.num_classes = 10
    config.model.options.dropout = 0.2
    config.model.batch_norm.group_size = 64
    config.data.source = 'cifar10'
    config.data.eval_split = 'test'
    config.data.mean = (125.3, 123.0, 113.9)
    config.data.std = (63.0, 62.1, 66.7)
    config.data.augment.crop = 'none'
    config.data.augment.size = 32
    config.data.augment.mirror = False
    config.schedule.boundaries = (150.0, 225.0)
    config.train.batch_size = 64
    config.train.epochs = 300.0
    config.eval.protocol = 'center'
    config.eval.scale = 32
