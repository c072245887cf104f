"""Every key of a run, with its default, unit and meaning. A paper's config is a diff on this.

Change any key on the command line: `--config.optim.learning_rate=0.01`. Keys that do not exist,
wrong types, impossible values and typed keys that would change nothing are errors before anything
is compiled; cnn_arch/config_keys.py has a line for each key.
"""

import ml_collections

from cnn_arch.models.layers import BatchNormSettings


def get_config() -> ml_collections.ConfigDict:
    """The defaults; the papers' configs fill in what differs and lock it."""
    d = ml_collections.ConfigDict
    config = d()
    config.seed = 0  # of initialisation and dropout, and of sampling unless data.seed is given
    config.init_from = (
        ''  # folder of imported weights or a workdir to start from; '' = from scratch
    )

    config.model = d()
    config.model.name = ''  # family, a key of cnn_arch.models.MODELS
    config.model.variant = ''  # label of the paper's table in that family's file
    config.model.num_classes = 1000
    config.model.dtype = (
        'float32'  # of the computation: float32 or bfloat16; parameters, classifier, loss: float32
    )
    config.model.options = d()  # fields of the module that a paper's config lets you change
    config.model.batch_norm = d()  # what a family has of its own stands in its models file
    # Images per group of statistics, on any hardware: 32.
    config.model.batch_norm.group_size = BatchNormSettings.group_size
    # Share of the old running statistics kept at each step: 0.9.
    config.model.batch_norm.momentum = BatchNormSettings.momentum
    config.model.batch_norm.epsilon = BatchNormSettings.epsilon  # 1e-5
    config.model.batch_norm.precise = 0  # images to recompute running statistics over at the end

    config.loss = d()
    config.loss.name = 'softmax'  # softmax, lenet_mse (eq. 8), lenet_map (eq. 9), mse
    config.loss.label_smoothing = 0.0  # share of the target spread over all classes
    config.loss.auxiliary_weight = 0.0  # weight of GoogLeNet's auxiliary classifiers
    config.loss.map_j = 0.1  # the constant j of LeNet-5's equation 9

    config.data = d()
    # digits, digits_scenes, mnist, cifar10, cifar100, folder or a tfds name
    config.data.source = 'imagenet2012'
    config.data.dir = ''  # where the source lies; '' = tfds' own default
    config.data.train_split = 'train'
    config.data.eval_split = 'validation'
    config.data.seed = -1  # of sample order, augmentation and replacements; -1 = that of the run
    config.data.channels = 3  # 1 = grey
    config.data.mean = (123.68, 116.779, 103.939)  # grey levels, RGB, subtracted from the input
    config.data.std = (1.0, 1.0, 1.0)  # grey levels, the input is divided by them
    config.data.threads = 2  # decoding threads per process
    config.data.workers = 0  # decoding processes per host; 0 = threads of this process
    config.data.prefetch = 4  # batches decoded ahead
    config.data.on_bad_image = 'stop'  # or skip: replaced deterministically, counted, logged

    config.data.augment = d()
    config.data.augment.size = 224  # pixels, side of the network's input in training
    # isotropic: shorter side to S in [scale_min, scale_max], random window; central_square: the
    # same from the central square; random_resized: random area and aspect; random_sized: the same
    # as Facebook's Torch code for ResNet draws it; padded: the image in a frame of zeros, a window
    # of its own size anywhere in it; none: the whole image.
    config.data.augment.crop = 'isotropic'
    config.data.augment.scale_min = 256  # pixels, smallest training scale S
    config.data.augment.scale_max = 256  # pixels, largest training scale S
    config.data.augment.area_min = 0.08  # share of the image's area, random_(re)sized only
    config.data.augment.area_max = 1.0
    config.data.augment.padding = 0  # pixels of the frame on each side, padded only (CIFAR: 4)
    config.data.augment.aspect_min = 3 / 4  # width / height, random_(re)sized only
    config.data.augment.aspect_max = 4 / 3
    # bilinear, bicubic, or random (GoogLeNet's: bilinear, area, nearest or cubic); antialiased.
    config.data.augment.interpolation = 'bilinear'
    config.data.augment.mirror = True  # flip left-right with probability 1/2
    config.data.augment.pca_colour = 0.0  # sigma of Krizhevsky's PCA colour noise (the paper: 0.1)
    # Of the covariance of RGB in [0, 1]; `python -m cnn_arch.data.colour` computes them.
    config.data.augment.pca_eigenvalues = (0.2175, 0.0188, 0.0045)
    config.data.augment.pca_eigenvectors = (  # rows R, G, B; a vector is a column
        (-0.5675, 0.7192, 0.4009),
        (-0.5808, -0.0045, -0.8140),
        (-0.5836, -0.6948, 0.4203),
    )
    config.data.augment.pixel_jitter = 0.0  # grey levels by which R, G and B each move (SENet: 20)
    config.data.augment.photometric = False  # Howard's contrast, brightness, colour in random order
    # Brightness, contrast and saturation by factors even in 1 +- colour_jitter, in random order
    # (Facebook's Torch code for ResNet: 0.4); unlike photometric nothing is clipped.
    config.data.augment.colour_jitter = 0.0
    config.data.augment.rotation = 0.0  # degrees, uniform in [-rotation, rotation]
    config.data.augment.planar = 0.0  # strength of LeNet-5's planar distortions, 0 = off

    config.optim = d()
    config.optim.rule = 'momentum'  # a key of cnn_arch.training.optimisers.RULES
    config.optim.learning_rate = 0.01  # the first one
    config.optim.momentum = 0.9
    config.optim.weight_decay = 0.0  # coupled L2, added to the gradient before momentum
    config.optim.decay_all = True  # also decay biases and normalisation; False = kernels only
    config.optim.filter_rms = 0.0  # ZFNet: filters are scaled back to this RMS; 0 = off
    # Decay of the averages, of parameters and of batch normalisation's statistics, that evaluation
    # uses, 0 = off. Of update n it is min(this, (1 + n) / (10 + n)), as in TensorFlow.
    config.optim.polyak_decay = 0.0
    # Patterns over the parameters' paths ('conv1_1/kernel'; * also for slashes): those that match
    # do not train, without decay or momentum. Typed: one pattern, or several with commas.
    config.optim.freeze = ()
    # Pairs (pattern, factor): what multiplies the learning rate of the parameters that match, the
    # last pair that fits holds. Caffe's doubled rate of biases: "(('*/bias',2.0),)".
    config.optim.rates = ()

    config.schedule = d()
    config.schedule.kind = 'constant'  # constant, steps, plateau, exponential or cosine
    config.schedule.factor = 0.1  # the rate is multiplied by it at each drop
    # Epochs at which it drops. Also where a paper waits for a plateau: --config.schedule.kind=steps
    # --config.schedule.boundaries=30,60 makes the length of a run known beforehand.
    config.schedule.boundaries = ()
    config.schedule.rates = ()  # the rate after each boundary (steps); () = what factor gives
    config.schedule.every = 0.0  # epochs between drops (exponential, in stairs)
    config.schedule.drops = 3  # drops before training ends (plateau)
    config.schedule.patience = 3  # evaluations without a better top-1 error before a drop (plateau)
    config.schedule.min_delta = 0.1  # percent, what counts as better (plateau)
    config.schedule.warmup_rate = 0.0  # ResNet's warm-up: this rate ...
    config.schedule.warmup_until = (
        0.0  # ... until the training error is below this, percent; 0 = off
    )

    config.train = d()
    config.train.batch_size = 256  # images in a step, over all devices
    config.train.update_size = 0  # images per update, one update after another; 0 = the whole step
    config.train.epochs = 90.0  # passes over the training set
    config.train.steps = 0  # overrides epochs if not 0
    config.train.log_every = 20  # steps between lines of metrics
    config.train.eval_every = 0  # steps between validations; 0 = once an epoch
    # The protocol of these validations, which plateaus are read from, with its own views and
    # averages; '' = the whole of config.eval. Once, at the end, the run is tested by config.eval.
    config.train.eval_protocol = ''
    # Epochs after which batch normalisation trains with its running statistics as they then are;
    # 0 = never.
    config.train.freeze_statistics = 0.0
    config.train.on_nonfinite = 'stop'  # or skip: the update is left out and counted

    config.eval = d()
    config.eval.protocol = 'center'  # a key of cnn_arch.evaluation.protocols.PROTOCOLS
    config.eval.scale = 256  # pixels, test scale Q: shorter side after resizing
    config.eval.scales = ()  # pixels, test scales of a multi-scale protocol; () = the paper's rule
    config.eval.crop = 0  # pixels, side of a window; 0 = data.augment.size
    config.eval.views = ()  # keys of evaluation.protocols.VIEWS; () = those of the protocol
    config.eval.average = ''  # over a class score map: scores or posteriors; '' = the protocol's
    config.eval.view_average = ''  # over views: posteriors or scores; '' = the protocol's
    config.eval.mirror = True  # False leaves out mirrored views: for networks trained without
    config.eval.interpolation = 'bilinear'  # or bicubic; antialiased
    # float32: on every platform and whatever model.dtype. fast: in model.dtype, by the platform's
    # unit (on NVIDIA's GPUs that multiplies float32 in TF32, on TPUs in bfloat16). docs/numbers.md.
    config.eval.precision = 'float32'
    config.eval.batch_size = 64  # windows in a step, over all devices; whole images by their area

    config.checkpoint = d()
    config.checkpoint.every = 1000  # steps between checkpoints
    config.checkpoint.keep = 3  # newest checkpoints kept
    config.checkpoint.keep_every = (
        0  # steps; checkpoints at its multiples are kept for ever; 0 = none
    )
    config.checkpoint.grace = 30.0  # seconds from SIGTERM to the end, with a checkpoint

    config.mesh = d()  # the product is the number of devices; the batch is split over all of them
    config.mesh.data = -1  # groups of devices that hold the whole network; -1 = all that remain
    config.mesh.model = 1  # devices of a group, over which the fully connected layers are split
    config.mesh.shard_optimiser = False  # also split the optimiser's state over the groups
    return config
