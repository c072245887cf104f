"""GoogLeNet, Szegedy et al. 2015: `googlenet` (table 1) and `naive` (modules as in figure 2a).

Command:   python train.py --config=configs/googlenet.py:googlenet --workdir=DIR
           --config.data.dir=TFDS_DIR
Hardware:  the paper: CPUs (DistBelief), asynchronous; "few high-end GPUs within a week" estimated.
Expected:  ILSVRC-2012 validation, one network, top-5 error (table 3): 144 crops 7.89, ten crops
           9.15 (`--protocol=googlenet_10`), one crop 10.07 (`--protocol=googlenet_1`). The public
           replication in Caffe, one crop: 31.3 / 11.1. `naive` has no printed figure.
Departures: not printed, hence taken from that replication (BVLC's bvlc_googlenet solver): rate
           0.01, weight decay 2e-4, on weights only, 32 images in a step, at most 10 million steps,
           that is 250 epochs. Its doubled rate for biases is left out (see Options). The decay of
           the Polyak average is ours, and how it begins is TensorFlow's, as for Xception: update n
           decays by min(0.9999, (1 + n) / (10 + n)), and with `batch_norm` the statistics are
           averaged, too. How one and ten crops were cut is not printed: the centre of the image at
           scale 256 and AlexNet's ten. Synchronous steps in place of asynchronous ones. Howard's
           distortions end with "random lighting noise similar to" Krizhevsky's, without a figure:
           Krizhevsky's 0.1. Every epoch is validated with one centre crop: 144 of each validation
           image, 250 times, would cost 1.9 times the training. The test at the end has the 144.
Options:   `--config.optim.rates="(('*/bias',2.0),)"` doubles the rate of biases. Another member of
           the ensemble of section 7, which shares initial weights and differs in sampling, is
           `--config.data.seed=2`.
           `--config.model.options.batch_norm=True` replaces response normalisation;
           `--config.model.options.auxiliary=False` trains without the side classifiers.
"""

import ml_collections

from configs import base


def get_config(variant: str = 'googlenet') -> ml_collections.ConfigDict:
    """Section 6."""
    config = base.get_config()
    config.model.name = 'googlenet'
    config.model.variant = variant
    config.model.options.auxiliary = True
    config.model.options.batch_norm = False
    config.model.options.dropout = 0.4  # before the last layer
    config.model.options.auxiliary_dropout = 0.7
    config.model.options.lrn_k = 2.0
    config.model.options.lrn_alpha = 1e-4
    config.loss.auxiliary_weight = 0.3

    config.data.augment.crop = 'random_resized'
    config.data.augment.area_min = 0.08
    config.data.augment.aspect_min = 3 / 4
    config.data.augment.aspect_max = 4 / 3
    config.data.augment.interpolation = 'random'
    config.data.augment.photometric = True
    config.data.augment.pca_colour = 0.1  # Howard's lighting noise

    config.optim.rule = 'momentum'
    config.optim.learning_rate = 0.01
    config.optim.momentum = 0.9
    config.optim.weight_decay = 2e-4
    config.optim.decay_all = False
    config.optim.polyak_decay = 0.9999
    config.schedule.kind = 'exponential'
    config.schedule.factor = 0.96
    config.schedule.every = 8.0
    config.train.batch_size = 32
    config.train.epochs = 250.0
    config.train.eval_protocol = 'center'

    config.eval.protocol = 'googlenet_144'
    config.eval.scale = 256
    return config.lock()
