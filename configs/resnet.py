"""ResNet, He et al. 2016: plain and residual networks of table 1, their 2016b pre-activation form,
and "v1.5".

Command:   python train.py --config=configs/resnet.py:50 --workdir=DIR --config.data.dir=TFDS_DIR
Hardware:  eight GPUs with 32 images each (the authors' README of their released models).
Expected:  ILSVRC-2012 validation, top-1 / top-5 error. Ten crops (tables 2 and 3): plain18 27.94,
           18-A 27.88, plain34 28.54 / 10.02, 34-A 25.03 / 7.76, 34-B 24.52 / 7.46, 34-C
           24.19 / 7.40, 50 22.85 / 6.71, 101 21.75 / 6.05, 152 21.43 / 5.71. Whole images at five
           scales (`--protocol=resnet_multiscale`, in the other reading of section 3.4
           `--protocol=resnet_multiscale_sliding`; table 4): 34-B 21.84 / 5.71, 34-C 21.53 / 5.60,
           50 20.74 / 5.25, 101 19.87 / 4.60, 152 19.38 / 4.49. One crop (the authors' README):
           50 24.7 / 7.8, 101 23.6 / 7.1, 152 23.0 / 6.7.
           v2, one crop of 320x320 (`--config.eval.crop=320 --config.eval.scale=320`; 2016b,
           table 5): 152-v2 21.1 / 5.5, 200-v2 20.7 / 5.3.
           CIFAR-10, test error, last step (table 6): cifar-20 8.75, cifar-32 7.51, cifar-44 7.17,
           cifar-56 6.97, cifar-110 6.43 (best of five; mean 6.61, deviation 0.16), cifar-1202
           7.93. cifar-plain-20 to -56 (figure 6, left) have curves alone: the deeper, the worse.
           v1_5 has no paper; torchvision's first weights, one crop: 50 23.87 / 7.14,
           101 22.63 / 6.45, 152 21.69 / 5.95.
Decay:     of all parameters, biases and normalisation among them: the paper says "a weight decay of
           0.0001" and no more; Caffe, with which it was made, decays whatever a file does not
           exempt, and the authors' files of training are not published; Facebook's Torch code, to
           which their README points, and torchvision (v1_5) decay all. Kernels alone:
           `--config.optim.decay_all=False`.
Departures: the mean of each channel is subtracted, not of each pixel. "When the error plateaus" is
           three evaluations without a gain of 0.1 percent (`schedule.patience`, `min_delta`), of
           one centre crop: ten every epoch would cost 13 % of the training; they are the test at
           the end. The run ends after 60 x 10^4 iterations at the latest. The authors recomputed
           the statistics of batch normalisation after training, over "a sufficiently large training
           batch" (README): 51,200 images here. v1_5 follows torchvision's recipe (90 epochs, a
           tenth at 30 and 60, crops of random area). v2-keras is trained as v2; Keras does not say
           how its weights were.
           CIFAR: where option A's zeros stand is not printed (cnn_arch/models/resnet.py). That the
           1,202 layers start gently, as 110 do, is our reading of "trained as described above".
           Statistics of batch normalisation are taken over 64 images: 128 on two GPUs.
Options:   the 45k/5k split on which section 4.2's schedule was chosen:
           `--config.data.train_split=train[:45000] --config.data.eval_split=train[45000:]`.
           A gentle start, which section 4.2 needs for 110 layers on CIFAR-10: 0.01 until the
           training error is below 80 percent (`--config.schedule.warmup_rate=0.01
           --config.schedule.warmup_until=80`). Drops at fixed epochs in place of the plateau:
           `--config.schedule.kind=steps --config.schedule.boundaries=30,60,90`.
"""

import ml_collections

from configs import base


def get_config(variant: str = '50') -> ml_collections.ConfigDict:
    """Section 3.4; 2016b's appendix for v2."""
    config = base.get_config()
    config.model.name = 'resnet'
    config.model.variant = variant
    config.model.options.zero_init_last = False
    config.model.options.ceil_mode_pool = False  # True: as the authors' Caffe models
    config.model.options.shortcut_zeros = 'after'  # option A's; or 'around' the maps there are
    config.model.batch_norm.group_size = 32
    config.model.batch_norm.precise = 51_200

    config.data.augment.crop = 'isotropic'
    config.data.augment.scale_min = 256
    config.data.augment.scale_max = 480
    config.data.augment.pca_colour = 0.1

    config.optim.rule = 'momentum'
    config.optim.learning_rate = 0.1
    config.optim.momentum = 0.9
    config.optim.weight_decay = 1e-4
    config.optim.decay_all = True
    config.train.batch_size = 256
    if variant.startswith('cifar'):
        _cifar(config, variant)
        return config.lock()
    config.train.eval_protocol = 'center'
    if 'v' in variant:
        config.schedule.kind = 'steps'
        config.schedule.boundaries = (30.0, 60.0)
        config.train.epochs = 90.0
    else:
        config.schedule.kind = 'plateau'
        config.schedule.drops = 3
        config.train.epochs = 120.0  # 60 x 10^4 iterations

    config.eval.protocol = 'ten_crop'
    config.eval.scale = 256
    if 'v1_5' in variant:
        config.data.mean = (123.675, 116.28, 103.53)
        config.data.std = (58.395, 57.12, 57.375)
        config.data.augment.crop = 'random_resized'
        config.data.augment.pca_colour = 0.0
        config.model.batch_norm.precise = 0
        config.eval.protocol = 'center'
    return config.lock()


def _cifar(config: ml_collections.ConfigDict, variant: str) -> None:
    """Section 4.2."""
    config.model.num_classes = 10
    config.model.batch_norm.group_size = 64
    config.model.batch_norm.precise = 0
    config.data.source = 'cifar10'
    config.data.eval_split = 'test'
    config.data.mean = (125.3, 123.0, 113.9)
    config.data.augment.crop = 'padded'
    config.data.augment.padding = 4
    config.data.augment.size = 32
    config.data.augment.pca_colour = 0.0
    config.train.batch_size = 128
    config.train.steps = 64_000
    config.schedule.kind = 'steps'
    epoch = 50_000 / config.train.batch_size  # steps
    config.schedule.boundaries = (32_000 / epoch, 48_000 / epoch)
    if variant in ('cifar-110', 'cifar-1202'):
        config.schedule.warmup_rate = 0.01
        config.schedule.warmup_until = 80.0
    config.eval.protocol = 'center'
    config.eval.scale = 32
