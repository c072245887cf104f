"""SENet, Hu et al. 2018: SE-ResNet, SE-ResNeXt, SE-BN-Inception and SENet-154, with the ResNeXt and
BN-Inception they build on.

Command:   python train.py --config=configs/senet.py:se_resnet50 --workdir=DIR
           --config.data.dir=TFDS_DIR
Hardware:  four servers of eight GPUs, 32 images each (section 5.1; the authors' README).
Expected:  ILSVRC-2012 validation, one 224x224 crop at scale 256, top-1 / top-5 error (table 2):
           se_resnet50 23.29 / 6.62, se_resnet101 22.38 / 6.07, se_resnet152 21.57 / 5.73,
           resnext50 22.11 / 5.90, se_resnext50 21.10 / 5.49, resnext101 21.18 / 5.57,
           se_resnext101 20.70 / 5.01, bn_inception 25.38 / 7.89, se_bn_inception 24.23 / 7.14;
           senet154 18.68 / 4.47 (table 4), and with one 320x320 crop (`--config.eval.crop=320
           --config.eval.scale=320`) 17.28 / 3.79. Other ratios of reduction with se_resnet50
           (table 7), `--config.model.options.reduction=R`: 4 23.21 / 6.63, 8 23.19 / 6.64,
           32 23.40 / 6.77.
           The authors' released weights (README; batch 256, rate 0.1, more epochs) are better:
           se_resnet50 22.37 / 6.36, se_resnet101 21.75 / 5.72, se_resnet152 21.34 / 5.54,
           se_resnext50 20.97 / 5.54, se_resnext101 19.81 / 4.96, se_bn_inception 23.62 / 7.04.
Departures: weight decay is not printed: 0.0001 as in ResNet. Images are drawn without the class
           balance of the CVPR text (the journal version has none). senet154: label smoothing is
           printed without its share, 0.1 here; batch normalisation is frozen "for the last few
           training epochs", three of the 100 here, and what is frozen are the running statistics,
           which then serve in training as in the test; scales and biases go on
           (`--config.train.freeze_statistics=0` freezes nothing).
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
    config.model.options.gate_bias = True  # False: as in the journal version
    config.model.batch_norm.group_size = 32

    config.data.augment.crop = 'random_resized'

    config.optim.rule = 'momentum'
    config.optim.learning_rate = 0.6
    config.optim.momentum = 0.9
    config.optim.weight_decay = 1e-4
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
    return config.lock()
