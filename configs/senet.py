"""SENet, Hu et al. 2018: SE-ResNet, SE-ResNeXt, SE-BN-Inception and SENet-154, with the ResNet,
ResNeXt and BN-Inception they build on; `journal-...`, the ablations of the journal version; and
`resnext101_64x4d`, Xie et al. 2017.

Command:   python train.py --config=configs/senet.py:se_resnet50 --workdir=DIR
           --config.data.dir=TFDS_DIR
Hardware:  four servers of eight GPUs, 32 images each (section 5.1; the authors' README).
Expected:  ILSVRC-2012 validation, one 224x224 crop at scale 256, top-1 / top-5 error (table 2):
           resnet50 24.80 / 7.48, resnet101 23.17 / 6.52, resnet152 22.42 / 6.34,
           se_resnet50 23.29 / 6.62, se_resnet101 22.38 / 6.07, se_resnet152 21.57 / 5.73,
           resnext50 22.11 / 5.90, se_resnext50 21.10 / 5.49, resnext101 21.18 / 5.57,
           se_resnext101 20.70 / 5.01, bn_inception 25.38 / 7.89, se_bn_inception 24.23 / 7.14;
           senet154 18.68 / 4.47 (table 4), and with one 320x320 crop (`--config.eval.crop=320
           --config.eval.scale=320`) 17.28 / 3.79. Other ratios of reduction with se_resnet50
           (table 7), `--config.model.options.reduction=R`: 4 23.21 / 6.63, 8 23.19 / 6.64,
           32 23.40 / 6.77. resnext101_64x4d 20.4 / 5.3, at 320 19.1 / 4.4 (table 4). The journal
           version (tables 10 to 16; `--table=senet:journal-10` and so on): journal-resnet50
           23.30 / 6.55, journal-se_resnet50 22.28 / 6.03, journal-r2 22.29 / 6.00, -r4
           22.25 / 6.09, -r8 22.26 / 5.99, -r32 22.72 / 6.20, -max 22.57 / 6.09, -relu
           23.47 / 6.98, -tanh 23.00 / 6.38, -stage2 23.03 / 6.48, -stage3 23.04 / 6.32, -stage4
           22.68 / 6.22, -pre 22.23 / 6.00, -post 22.78 / 6.35, -identity 22.20 / 6.15, -3x3
           22.48 / 6.02, -no_squeeze 22.93 / 6.39.
           The authors' released weights (README; batch 256, rate 0.1, more epochs) are better:
           se_resnet50 22.37 / 6.36, se_resnet101 21.75 / 5.72, se_resnet152 21.34 / 5.54,
           se_resnext50 20.97 / 5.54, se_resnext101 19.81 / 4.96, se_bn_inception 23.62 / 7.04.
Decay:     not printed; the first author (issue 37 of his repository): 0.0001 for the ResNets,
           0.0002 for BN-Inception. He gives the biases of normalisation none (issue 8; Caffe decays
           all that its `decay_mult` does not spare); whether their scales have any he does not say:
           here kernels alone (`--config.optim.decay_all=True`: all).
The journal's recipe (section 6): a rate of 0.1 until the loss stops falling (about 300 epochs in
           total), then a tenth, three times; smoothed labels; gates without biases; eight GPUs.
           Not printed: 32 images each, a share of 0.1. Its footnote's fixed schedule, with which
           ResNet-50 has 23.21 / 6.53 and SE-ResNet-50 22.20 / 6.00: `--config.schedule.kind=steps
           --config.schedule.boundaries=125,200,250 --config.train.epochs=270`.
resnext101_64x4d follows its own paper (section 4), that is Facebook's Torch code for ResNet, see
           configs/densenet.py, with 100 epochs (the authors' code); initialisation here is by
           fan-in, there by fan-out.
Departures: images are drawn without the class balance of the CVPR text (the journal version has
           none). Where the journal waits for the validation loss, here three evaluations without a
           gain of 0.1 percent of top-1 error do (`schedule.patience`, `min_delta`).
           senet154: label smoothing is printed without its share, 0.1 here; batch normalisation is
           frozen "for the last few training epochs", three of the 100 here, and what is frozen are
           the running statistics, which then serve in training as in the test; scales and biases go
           on (`--config.train.freeze_statistics=0` freezes nothing).
"""

import ml_collections

from cnn_arch.models import bn_inception, senet
from configs import base

VARIANTS = (*senet.VARIANTS, *bn_inception.VARIANTS)


def get_config(variant: str = 'se_resnet50') -> ml_collections.ConfigDict:
    """Section 5.1 ("Implementation details"); the journal version's appendix for SENet-154."""
    config = base.get_config()
    inception = variant in bn_inception.VARIANTS
    fields = (bn_inception if inception else senet).VARIANTS.get(variant, {})
    config.model.name = 'bn_inception' if inception else 'senet'
    config.model.variant = variant
    config.model.options.reduction = fields.get('reduction', 0)  # ratio r; 0 = no gates
    config.model.options.gate_bias = fields.get('gate_bias', True)
    config.model.batch_norm.group_size = 32

    config.data.augment.crop = 'random_resized'

    config.optim.rule = 'momentum'
    config.optim.learning_rate = 0.6
    config.optim.momentum = 0.9
    config.optim.weight_decay = 2e-4 if inception else 1e-4
    config.optim.decay_all = False
    config.schedule.kind = 'exponential'
    config.schedule.factor = 0.1
    config.schedule.every = 30.0
    config.train.batch_size = 1024
    config.train.epochs = 100.0
    if variant == 'senet154':
        config.model.options.dropout = 0.2
        config.loss.label_smoothing = 0.1
        config.optim.learning_rate = 1.0
        config.train.batch_size = 2048
        config.train.freeze_statistics = 97.0

    config.eval.protocol = 'center'
    config.eval.scale = 256
    if variant.startswith('journal'):
        _journal(config)
    elif variant == 'resnext101_64x4d':
        _resnext(config)
    return config.lock()


def _journal(config: ml_collections.ConfigDict) -> None:
    """The journal version's section 6."""
    config.loss.label_smoothing = 0.1
    config.optim.learning_rate = 0.1
    config.schedule.kind = 'plateau'
    config.schedule.drops = 3
    config.train.batch_size = 256
    config.train.epochs = 300.0


def _resnext(config: ml_collections.ConfigDict) -> None:
    """Xie et al. 2017, section 4, and the authors' code."""
    config.data.mean = (123.675, 116.28, 103.53)
    config.data.std = (58.395, 57.12, 57.375)
    config.data.augment.crop = 'random_sized'
    config.data.augment.interpolation = 'bicubic'
    config.data.augment.colour_jitter = 0.4
    config.data.augment.pca_colour = 0.1
    config.optim.rule = 'nesterov'
    config.optim.learning_rate = 0.1
    config.optim.decay_all = True
    config.train.batch_size = 256
    config.eval.interpolation = 'bicubic'
