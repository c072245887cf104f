"""AlexNet: torchvision's of 2014 (one tower), Caffe's AlexNet and CaffeNet (two towers)."""

from cnn_arch.weights import recipes
from cnn_arch.weights.recipes import Family, Names, Recipe

LAYERS = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8')
TORCHVISION: Names = dict(
    zip(
        LAYERS,
        ('features.0', 'features.3', 'features.6', 'features.8', 'features.10',
         'classifier.1', 'classifier.4', 'classifier.6'),
        strict=True,
    )
)  # fmt: skip
CAFFE: Names = {layer: layer for layer in LAYERS}

# Caffe divides alpha = 1e-4 by the 5 maps it sums over, and has k = 1 where the paper has 2.
NORMALISATION = {'model.options.lrn_k': 1.0, 'model.options.lrn_alpha': 2e-5}
# The mean of ilsvrc_2012_mean.npy, of which Caffe subtracts each pixel's own.
CAFFE_READS = recipes.reads((122.679, 116.669, 104.007), size=227)
NOTE = (
    'trained on pictures warped to 256x256 with the mean image subtracted; here the shorter side '
    'is 256 and the mean colour is subtracted'
)

FAMILY = Family(
    first=('conv1',),
    windows=lambda model: {'fc6': (6, 6)},
    recipes=(
        Recipe(
            'torchvision', 'torch', lambda model: TORCHVISION,
            recipes.reads(recipes.TORCH_MEAN, recipes.TORCH_STD) | recipes.RANDOM_AREA,
        ),
        Recipe(
            'caffe', 'caffe', lambda model: CAFFE,
            CAFFE_READS | NORMALISATION | {'model.options.order': 'relu-lrn-pool'},
            bgr=True, note=NOTE,
        ),
        Recipe(
            'caffe', 'caffe', lambda model: CAFFE,
            CAFFE_READS | NORMALISATION | {'model.options.order': 'relu-pool-lrn'},
            bgr=True, title='CaffeNet', note=NOTE,
        ),
    ),
)  # fmt: skip
