"""Public weights by name: `keras/resnet50`, `torchvision/vgg16`, `timm/legacy_seresnet50.in1k`,
`caffe/bvlc_googlenet`.

A file is fetched by the library of its publisher, where that is installed and a network is there;
otherwise the message says which file to put where. Checked is what the publisher publishes: MD5
(Keras), the SHA-256 whose first eight digits are in the file's name (torchvision), SHA-1 (Caffe);
the Hugging Face Hub checks SHA-256 itself.
"""

import dataclasses
import hashlib
import os
import pathlib
import re

from cnn_arch import files
from cnn_arch.errors import UserError


@dataclasses.dataclass(frozen=True)
class Public:
    """One file."""

    file: str
    url: str  # of the file, or of the page that has it
    digest: str = ''  # algorithm:hexadecimal digits, perhaps only the first ones


KERAS_URL = 'https://storage.googleapis.com/tensorflow/keras-applications'


def _keras(folder: str, name: str, md5: str) -> Public:
    file = f'{name}_weights_tf_dim_ordering_tf_kernels.h5'
    return Public(file, f'{KERAS_URL}/{folder}/{file}', f'md5:{md5}')


def _torchvision(file: str) -> Public:
    digest = re.search(r'-([0-9a-f]{8})\.pth$', file)
    assert digest
    return Public(file, f'https://download.pytorch.org/models/{file}', f'sha256:{digest[1]}')


def _timm(name: str) -> Public:
    return Public(f'{name}.safetensors', f'https://huggingface.co/timm/{name}')


def _bvlc(name: str, sha1: str) -> Public:
    file = f'{name}.caffemodel'
    return Public(file, f'http://dl.caffe.berkeleyvision.org/{file}', f'sha1:{sha1}')


def _page(file: str, url: str) -> Public:
    return Public(f'{file}.caffemodel', url)


def _cifar(file: str) -> Public:
    """Y. Idelbayev's; the eight digits in the name begin the SHA-256."""
    return Public(file, f'{CIFAR}/{file}', f'sha256:{file[-11:-3]}')


CIFAR = 'https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models'
MSRA = 'https://github.com/KaimingHe/deep-residual-networks'
SENET = 'https://github.com/hujie-frank/SENet'
OXFORD = 'https://www.robots.ox.ac.uk/~vgg/research/very_deep/'

PUBLIC: dict[str, Public] = {
    'keras/vgg16': _keras('vgg16', 'vgg16', '64373286793e3c8b2b4e3219cbf3544b'),
    'keras/vgg19': _keras('vgg19', 'vgg19', 'cbe5617147190e668d6c5d5026f83318'),
    'keras/resnet50': _keras('resnet', 'resnet50', '2cb95161c43110f7111970584f804107'),
    'keras/resnet101': _keras('resnet', 'resnet101', 'f1aeb4b969a6efcfb50fad2f0c20cfc5'),
    'keras/resnet152': _keras('resnet', 'resnet152', '100835be76be38e30d865e96f2aaae62'),
    'keras/resnet50v2': _keras('resnet', 'resnet50v2', '3ef43a0b657b3be2300d5770ece849e0'),
    'keras/resnet101v2': _keras('resnet', 'resnet101v2', '6343647c601c52e1368623803854d971'),
    'keras/resnet152v2': _keras('resnet', 'resnet152v2', 'a49b44d1979771252814e80f8ec446f9'),
    'keras/densenet121': _keras('densenet', 'densenet121', '9d60b8095a5708f2dcce2bca79d332c7'),
    'keras/densenet169': _keras('densenet', 'densenet169', 'd699b8f76981ab1b30698df4c175e90b'),
    'keras/densenet201': _keras('densenet', 'densenet201', '1ceb130c1ea1b78c3bf6114dbdfd8807'),
    'keras/xception': _keras('xception', 'xception', '0a58e3b7378bc2990ea3b43d5981f1f6'),
    **{
        f'torchvision/{name}': _torchvision(f'{file}.pth')
        for name, file in {
            'alexnet': 'alexnet-owt-7be5be79',
            'vgg11': 'vgg11-8a719046',
            'vgg13': 'vgg13-19584684',
            'vgg16': 'vgg16-397923af',
            'vgg19': 'vgg19-dcbb9e9d',
            'resnet18': 'resnet18-f37072fd',
            'resnet34': 'resnet34-b627a593',
            'resnet50': 'resnet50-0676ba61',
            'resnet50-v2': 'resnet50-11ad3fa6',
            'resnet101': 'resnet101-63fe2227',
            'resnet101-v2': 'resnet101-cd907fc2',
            'resnet152': 'resnet152-394f9c45',
            'resnet152-v2': 'resnet152-f82ba261',
            'resnext50': 'resnext50_32x4d-7cdf4587',
            'densenet121': 'densenet121-a639ec97',
            'densenet161': 'densenet161-8d451a50',
            'densenet169': 'densenet169-b2777c0a',
            'densenet201': 'densenet201-c1103571',
        }.items()
    },
    **{
        f'timm/{name}': _timm(name)
        for name in (
            'legacy_senet154.in1k', 'legacy_seresnet50.in1k', 'legacy_seresnet101.in1k',
            'legacy_seresnet152.in1k', 'legacy_seresnext50_32x4d.in1k',
            'legacy_seresnext101_32x4d.in1k', 'resnet18.tv_in1k', 'resnet34.tv_in1k',
            'resnet50.tv_in1k', 'resnet101.tv_in1k', 'resnet152.tv_in1k', 'densenet121.tv_in1k',
            'densenet161.tv_in1k', 'densenet169.tv_in1k', 'densenet201.tv_in1k', 'vgg11.tv_in1k',
            'vgg13.tv_in1k', 'vgg16.tv_in1k', 'vgg19.tv_in1k',
        )
    },
    'cifar/resnet20': _cifar('resnet20-12fca82f.th'),
    'cifar/resnet32': _cifar('resnet32-d509ac18.th'),
    'cifar/resnet44': _cifar('resnet44-014dd654.th'),
    'cifar/resnet56': _cifar('resnet56-4bfd9763.th'),
    'cifar/resnet110': _cifar('resnet110-1d1ed7c2.th'),
    'cifar/resnet1202': _cifar('resnet1202-f3b1deed.th'),
    'caffe/bvlc_alexnet': _bvlc('bvlc_alexnet', '9116a64c0fbe4459d18f4bb6b56d647b63920377'),
    'caffe/bvlc_reference_caffenet': _bvlc(
        'bvlc_reference_caffenet', '4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46'
    ),
    'caffe/bvlc_googlenet': _bvlc('bvlc_googlenet', '405fc5acd08a3bb12de8ee5e23a96bec22f08204'),
    'caffe/VGG_ILSVRC_16_layers': _page('VGG_ILSVRC_16_layers', OXFORD),
    'caffe/VGG_ILSVRC_19_layers': _page('VGG_ILSVRC_19_layers', OXFORD),
    **{f'caffe/ResNet-{depth}': _page(f'ResNet-{depth}-model', MSRA) for depth in (50, 101, 152)},
    **{
        f'caffe/{name}': _page(name, SENET)
        for name in (
            'SE-BN-Inception', 'SE-ResNet-50', 'SE-ResNet-101', 'SE-ResNet-152', 'SE-ResNeXt-50',
            'SE-ResNeXt-101', 'SENet-154',
        )
    },
}  # fmt: skip

# timm tests these with another interpolation than torchvision does; the files look the same.
KEYS = {
    f'timm/densenet{depth}.tv_in1k': {'eval.interpolation': 'bicubic'}
    for depth in (121, 161, 169, 201)
} | {f'torchvision/resnet{depth}-v2': {'eval.scale': 232} for depth in (50, 101, 152)}


def find(source: str) -> tuple[pathlib.Path, str]:
    """The file that SOURCE is (a path) or names, and the name it is known by ('' if none).

    Raises UserError where it is neither, cannot be fetched, or is not what was published.
    """
    path = pathlib.Path(source)
    if path.exists() or path.is_symlink():
        files.open_regular(path).close()
        return path, _recognise(path)
    if source not in PUBLIC:
        near = [name for name in PUBLIC if name.partition('/')[2] == path.name]
        hint = f'; did you mean {near[0]}?' if near else f'; known names are {", ".join(PUBLIC)}'
        raise UserError(f'{source}: no such file, and not the name of public weights{hint}')
    public = PUBLIC[source]
    path = folder() / public.file
    if not path.exists():
        path = _fetch(source, public, path)
    if not _is(path, public):
        raise UserError(
            f'{path}: not the file that {source} names, {public.digest}: cut off, or another one; '
            f'remove it and fetch {public.url} again'
        )
    return path, source


def folder() -> pathlib.Path:
    """Where public files are looked for and kept."""
    return files.user_cache() / 'weights'


def _recognise(path: pathlib.Path) -> str:
    """The name that a file is published under, by its own name and digest; '' if none.

    Raises UserError where the file's name carries another digest than the file has.
    """
    for name, public in PUBLIC.items():
        if path.name == public.file and _is(path, public):
            return name if public.digest else ''
    hashed = re.search(r'-([0-9a-f]{8})\.(?:pth|pt|safetensors)$', path.name)
    if hashed and not _digest(path, 'sha256').startswith(hashed[1]):
        raise UserError(
            f'{path}: its SHA-256 does not begin with {hashed[1]}, as its name says: cut off, or '
            'altered'
        )
    return ''


def _is(path: pathlib.Path, public: Public) -> bool:
    algorithm, _, digits = public.digest.partition(':')
    return not digits or _digest(path, algorithm).startswith(digits)


def _digest(path: pathlib.Path, algorithm: str) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _fetch(source: str, public: Public, path: pathlib.Path) -> pathlib.Path:
    """The file, downloaded by its publisher's library."""
    manual = f'put {public.file} from {public.url} into {path.parent}, or give its path as SOURCE'
    publisher, _, name = source.partition('/')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if publisher == 'keras':
            os.environ.setdefault('KERAS_BACKEND', 'jax')  # its own default, TensorFlow, may lack
            import keras

            keras.utils.get_file(path.name, public.url, cache_dir=path.parent, cache_subdir='.')
        elif publisher == 'torchvision':
            import torch

            torch.hub.download_url_to_file(public.url, str(path), public.digest.partition(':')[2])
        elif publisher == 'timm':
            import huggingface_hub

            huggingface_hub.logging.set_verbosity_error()  # it announces every attempt
            return pathlib.Path(
                huggingface_hub.hf_hub_download(f'timm/{name}', 'model.safetensors')
            )
        else:
            raise UserError(f'{source}: Caffe has no library that fetches it; {manual}')
    except ImportError as error:
        raise UserError(
            f'{source}: {error.name}, which fetches it, is not installed; {manual}'
        ) from error
    except UserError:
        raise
    except Exception as error:  # each library has its own for a network that is not there
        reason = str(error).strip().splitlines()
        raise UserError(
            f'{source}: not fetched ({reason[0] if reason else error!r}); {manual}'
        ) from error
    return path
