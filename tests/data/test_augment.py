"""Each augmentation against its definition: distributions with fixed seeds, geometry on ramps."""

import io
import itertools
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from cnn_arch.data import augment, decode, preprocess
from cnn_arch.errors import UserError
from configs import base
from tests.shared import shared_data

DRAWS = 8000
SURE = 1e-4  # the share of seeds with which a sound test would fail; the seeds are fixed


def settings(**keys):
    """The recipe of configs/base.py without any augmentation, but with `keys`."""
    augment = base.get_config().data.augment
    return types.SimpleNamespace(**{**augment, 'crop': 'none', 'mirror': False, **keys})


def ramps(height: int, width: int) -> np.ndarray:
    """Red is x, green is y, blue tells inside from outside."""
    pixels = np.full((height, width, 3), 200, np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width), np.arange(height)[:, None]
    return pixels


def boxes(height: int, width: int, recipe, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([augment.crop_box(height, width, rng, recipe) for _ in range(DRAWS)])


def assert_uniform_integers(values: np.ndarray, low: int, high: int) -> None:
    """Whole numbers in [low, high], each as likely."""
    np.testing.assert_allclose(values, values.round(), atol=1e-6)
    values = values.round().astype(int)
    assert (values.min(), values.max()) == (low, high)
    counts = np.bincount(values - low, minlength=high - low + 1)
    assert stats.chisquare(counts).pvalue > SURE


def test_isotropic_scale_and_position():
    recipe = settings(crop='isotropic', size=60, scale_min=64, scale_max=96)
    top, left, height, width = boxes(120, 200, recipe).T
    shorter = 60 * 120 / height
    assert_uniform_integers(shorter, 64, 96)
    longer = np.array([decode.isotropic_size(120, 200, round(s))[1] for s in shorter])
    np.testing.assert_allclose(width, 60 * 200 / longer)
    # Positions are whole pixels of the resized picture, uniform within what its size leaves.
    for scale in (64, 80, 96):
        chosen = shorter.round() == scale
        assert_uniform_integers(top[chosen] * scale / 120, 0, scale - 60)
        across = longer[chosen][0]
        places = left[chosen] * across / 200
        np.testing.assert_allclose(places, places.round(), atol=1e-6)
        assert 0 <= places.min() < 3
        assert across - 60 - 3 < places.max() <= across - 60
        assert stats.kstest(places + 0.5, stats.uniform(0, across - 59).cdf).pvalue > SURE


def test_single_scale_is_krizhevsky_and_vgg():
    recipe = settings(crop='isotropic', size=224, scale_min=256, scale_max=256)
    found = boxes(256, 300, recipe)
    assert (found[:, 2:] == 224).all()  # already at that scale: crops are slices
    assert_uniform_integers(found[:, 0], 0, 32)
    assert_uniform_integers(found[:, 1], 0, 76)


def test_central_square():
    recipe = settings(crop='central_square', size=224, scale_min=256, scale_max=256)
    top, left, height, width = boxes(512, 1024, recipe).T
    assert (height == 448).all()
    assert (width == 448).all()
    assert_uniform_integers(top / 2, 0, 32)
    assert_uniform_integers(left / 2, 128, 160)  # of a picture 512 wide, columns 128 to 384
    assert abs(np.corrcoef(top, left)[0, 1]) < 0.05


def test_random_resized_area_aspect_and_position():
    # With at most half the area of a square, every draw fits: the distributions are the plain ones.
    recipe = settings(crop='random_resized', area_min=0.08, area_max=0.5)
    side = 4000  # so large that whole pixels do not matter
    top, left, height, width = boxes(side, side, recipe).T
    area, aspect = height * width / side**2, width / height
    assert stats.kstest(area, stats.uniform(0.08, 0.42).cdf).pvalue > SURE
    span = np.log(4 / 3) - np.log(3 / 4)
    assert stats.kstest(np.log(aspect), stats.uniform(np.log(3 / 4), span).cdf).pvalue > SURE
    assert abs(np.corrcoef(area, aspect)[0, 1]) < 0.05
    for place, extent in ((top, height), (left, width)):
        assert stats.kstest(place / (side - extent), 'uniform').pvalue > SURE
    for numbers in (top, left, height, width):
        assert (numbers == numbers.round()).all()


def test_random_resized_stays_within_bounds():
    recipe = settings(crop='random_resized')
    for height, width in ((375, 500), (97, 106), (1632, 1200), (3, 2)):
        top, left, h, w = boxes(height, width, recipe).T
        assert (np.minimum(top, left) >= 0).all()
        assert (top + h <= height).all()
        assert (left + w <= width).all()
        assert (np.minimum(h, w) >= 1).all()
        if height > 90:
            area, aspect = h * w / (height * width), w / h
            assert area.min() > 0.077
            assert area.max() <= 1.0
            assert area.max() > 0.97
            assert aspect.min() > 0.72  # whole pixels
            assert aspect.max() < 1.38


@pytest.mark.parametrize(
    ('shape', 'expected'),
    [((10, 1000), (0, 493, 10, 13)), ((1000, 10), (493, 0, 13, 10))],
)
def test_random_resized_falls_back_to_the_centre(shape, expected):
    """No box of at least 8 % of such a strip has an allowed aspect: the largest central one has."""
    recipe = settings(crop='random_resized')
    found = boxes(*shape, recipe)
    assert (found == expected).all()


def test_random_sized_is_drawn_as_in_torch():
    """An even aspect, then upright or lying: not the even logarithm of `random_resized`."""
    side = 4000
    recipe = settings(crop='random_sized', area_min=0.08, area_max=0.5)
    top, left, height, width = boxes(side, side, recipe).T
    even = stats.uniform(0.75, 4 / 3 - 0.75).cdf

    def aspect_cdf(x):
        return (even(x) + 1 - even(1 / x)) / 2

    area, aspect = height * width / side**2, width / height
    assert stats.kstest(area, stats.uniform(0.08, 0.42).cdf).pvalue > SURE
    assert stats.kstest(aspect, aspect_cdf).pvalue > SURE
    assert abs(np.corrcoef(area, aspect)[0, 1]) < 0.05
    for place, extent in ((top, height), (left, width)):
        assert stats.kstest(place / (side - extent), 'uniform').pvalue > SURE
    # Without the change of sides most boxes would lie: that the test sees.
    assert stats.kstest(aspect, even).pvalue < SURE


@pytest.mark.parametrize(
    ('shape', 'expected'), [((10, 1000), (0, 495, 10, 10)), ((1000, 10), (495, 0, 10, 10))]
)
def test_random_sized_falls_back_to_the_central_square(shape, expected):
    """Torch: the shorter side to the size of the crop, then the centre."""
    assert (boxes(*shape, settings(crop='random_sized')) == expected).all()


def test_random_sized_stays_within_bounds():
    recipe = settings(crop='random_sized')
    for height, width in ((375, 500), (97, 106), (3, 2)):
        top, left, h, w = boxes(height, width, recipe).T
        assert (np.minimum(top, left) >= 0).all()
        assert (top + h <= height).all()
        assert (left + w <= width).all()
        assert (np.minimum(h, w) >= 1).all()


def test_none_is_the_whole_image():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    rng = np.random.default_rng(0)
    sample = augment.train_example(pixels, rng, settings(size=32))
    assert list(sample) == ['image']
    np.testing.assert_array_equal(sample['image'], pixels)
    resized = augment.train_example(pixels, rng, settings(size=28))['image']
    np.testing.assert_array_equal(
        resized, decode.crop_and_resize(pixels, (0.0, 0.0, 32.0, 32.0), (28, 28))
    )


def test_mirror_with_probability_one_half():
    pixels = ramps(40, 40)
    recipe = settings(size=40, mirror=True)
    rng = np.random.default_rng(0)
    first = [augment.train_example(pixels, rng, recipe)['image'][0, 0, 0] for _ in range(2000)]
    mirrored = np.array(first) == 39
    assert (np.array(first)[~mirrored] == 0).all()
    assert stats.binomtest(int(mirrored.sum()), 2000, 0.5).pvalue > SURE


def test_mirrored_crops_are_the_same_crops():
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    recipe = settings(crop='isotropic', size=48, scale_min=50, scale_max=80, mirror=True)
    flips = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        image = augment.train_example(pixels, rng, recipe)['image']
        rng = np.random.default_rng(seed)
        box = augment.crop_box(70, 90, rng, recipe)
        flip = bool(rng.integers(2))
        flips += flip
        plain = decode.crop_and_resize(pixels, box, (48, 48))
        np.testing.assert_array_equal(image, plain[:, ::-1] if flip else plain)
        assert image.flags.c_contiguous
    assert 0 < flips < 20


def test_random_interpolation_draws_googlenets_four_alike():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    box = (0.0, 0.0, 50.0, 50.0)
    names = ('bilinear', 'area', 'nearest', 'bicubic')
    plain = {decode.crop_and_resize(pixels, box, (24, 24), name).tobytes(): name for name in names}
    assert len(plain) == 4
    rng = np.random.default_rng(0)
    recipe = settings(size=24, interpolation='random')
    drawn = [
        plain[augment.train_example(pixels, rng, recipe)['image'].tobytes()] for _ in range(2000)
    ]
    counts = [drawn.count(name) for name in names]
    assert stats.chisquare(counts).pvalue > SURE


@pytest.mark.parametrize('degrees', [-10.0, -3.0, 4.0, 10.0])
@pytest.mark.parametrize('box', [(60.0, 70.0, 96.0, 96.0), (40.0, 50.0, 144.0, 144.0)])
def test_turned_crop_on_pixels_that_encode_their_coordinates(degrees, box):
    size = 96
    result = augment.turned_crop(ramps(240, 250), box, degrees, size, 'bilinear', 3).astype(float)
    # Counter-clockwise as seen: the right end of the middle line comes from below its left end.
    across, down = np.meshgrid(*[(np.arange(size) + 0.5 - size / 2) * box[3] / size] * 2)
    angle = np.deg2rad(degrees)
    x = box[1] + box[3] / 2 + np.cos(angle) * across + np.sin(angle) * down - 0.5
    y = box[0] + box[2] / 2 - np.sin(angle) * across + np.cos(angle) * down - 0.5
    # Rounded twice: when resized, and when turned.
    assert np.abs(result[:, :, 0] - x).max() < 1.05
    assert np.abs(result[:, :, 1] - y).max() < 1.05
    assert (result[:, :, 2] == 200).all()


def test_turning_beyond_the_image_is_black():
    pixels = np.full((100, 120, 1), 255, np.uint8)
    box = (0.0, 0.0, 100.0, 120.0)
    result = augment.turned_crop(pixels, box, 10.0, 64, 'bilinear', 1)
    assert result.shape == (64, 64, 1)
    for corner in (result[0, 0], result[0, -1], result[-1, 0], result[-1, -1]):
        assert corner < 10
    assert (result[16:48, 16:48] == 255).all()
    assert 0.8 < (result == 255).mean() < 0.95
    unturned = augment.turned_crop(pixels, box, 0.0, 64, 'bilinear', 1)
    assert (unturned == 255).all()


def test_rotation_is_drawn_evenly():
    recipe = settings(crop='isotropic', size=80, scale_min=125, scale_max=125, rotation=10.0)
    rng = np.random.default_rng(0)
    angles = []
    for _ in range(400):
        image = augment.train_example(ramps(250, 250), rng, recipe)['image'].astype(float)
        middle = image[16:64, 16:64].mean(0)  # free of the black corners
        along_x, along_y, _ = np.polyfit(np.arange(48), middle, 1)[0]
        angles.append(np.rad2deg(np.arctan2(-along_y, along_x)))
    assert np.max(np.abs(angles)) < 10.2
    assert stats.kstest(angles, stats.uniform(-10, 20).cdf).pvalue > SURE


def test_colour_noise_has_the_covariance_of_the_paper():
    recipe = settings(pca_colour=0.1)
    rng = np.random.default_rng(0)
    shifts = np.array([augment.colour_shift(rng, recipe) for _ in range(20_000)])
    assert shifts.dtype == np.float32
    vectors, values = np.array(recipe.pca_eigenvectors), np.array(recipe.pca_eigenvalues)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-4)
    expected = vectors @ np.diag((255 * 0.1 * values) ** 2) @ vectors.T
    covariance = np.cov(shifts.T)
    assert np.abs(covariance - expected).max() < 0.03 * np.abs(expected).max()
    assert np.abs(shifts.mean(0)).max() < 0.1
    # Along the components, independent normal numbers of the standard deviations printed.
    along = shifts @ vectors / (255 * 0.1 * values)
    for component in along.T:
        assert stats.kstest(component, 'norm').pvalue > SURE
    assert np.abs(np.corrcoef(along.T) - np.eye(3)).max() < 0.03


def test_pixel_jitter_moves_each_colour_evenly():
    recipe = settings(pixel_jitter=20.0)
    rng = np.random.default_rng(0)
    shifts = np.array([augment.colour_shift(rng, recipe) for _ in range(DRAWS)])
    for colour in shifts.T:
        assert stats.kstest(colour, stats.uniform(-20, 40).cdf).pvalue > SURE
    assert np.abs(np.corrcoef(shifts.T) - np.eye(3)).max() < 0.05


def test_photometric_parameters():
    rng = np.random.default_rng(0)
    drawn = np.array([augment.photometric_parameters(rng, 0.5) for _ in range(DRAWS)])
    for factor in drawn[:, :3].T:
        assert stats.kstest(factor, stats.uniform(0.5, 1).cdf).pvalue > SURE
    assert_uniform_integers(drawn[:, 3], 0, 5)
    assert sorted(augment.ORDERS) == sorted(itertools.permutations((0, 1, 2)))


def test_colour_jitter_is_drawn_as_in_torch():
    """1 + uniform(-0.4, 0.4) for each of the three, in each order alike."""
    pixels, rng = np.zeros((4, 4, 3), np.uint8), np.random.default_rng(0)
    recipe = settings(size=4, colour_jitter=0.4)
    drawn = [augment.train_example(pixels, rng, recipe)['jitter'] for _ in range(DRAWS)]
    assert drawn[0].dtype == np.float32
    for factor in np.array(drawn)[:, :3].T:
        assert stats.kstest(factor, stats.uniform(0.6, 0.8).cdf).pvalue > SURE
    assert_uniform_integers(np.array(drawn)[:, 3], 0, 5)


def test_colours_of_grey_images_are_an_error():
    pixels = np.zeros((32, 32, 1), np.uint8)
    for keys in (
        {'pca_colour': 0.1}, {'photometric': True}, {'pixel_jitter': 20.0}, {'colour_jitter': 0.4},
    ):  # fmt: skip
        with pytest.raises(UserError, match='channels=3'):
            augment.train_example(pixels, np.random.default_rng(0), settings(size=32, **keys), 1)


def test_planar_distortions_of_digits():
    digit = np.zeros((28, 28, 1), np.uint8)
    digit[6:22, 12:16] = 255
    recipe = settings(size=28, planar=1.0)
    rng = np.random.default_rng(0)
    images = [augment.train_example(digit, rng, recipe, 1)['image'] for _ in range(20)]
    assert all(image.shape == (28, 28, 1) and image.dtype == np.uint8 for image in images)
    assert len({image.tobytes() for image in images}) > 10


CROPS = ('isotropic', 'central_square', 'random_resized', 'random_sized', 'none')
ALL = {
    'pca_colour': 0.1,
    'photometric': True,
    'mirror': True,
    'interpolation': 'random',
    'size': 64,
    'scale_min': 64,
    'scale_max': 128,
}


@pytest.mark.parametrize('rotation', [0.0, 10.0])
@pytest.mark.parametrize('crop', CROPS)
def test_a_sample_is_a_function_of_its_seed_in_any_thread(crop, rotation):
    recipe = settings(**ALL, crop=crop, rotation=rotation)
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((150, 170), Image.Resampling.BICUBIC).save(file, 'JPEG')
    encoded = file.getvalue()

    def sample(seed: int) -> dict[str, np.ndarray]:
        return augment.train_example(encoded, np.random.default_rng(seed), recipe)

    one_by_one = [sample(seed) for seed in range(24)]
    with ThreadPoolExecutor(4) as threads:
        in_threads = list(threads.map(sample, range(24)))
    for a, b in zip(one_by_one, in_threads, strict=True):
        assert sorted(a) == ['colour', 'image', 'photometric']
        assert a['image'].shape == (64, 64, 3)
        assert a['image'].dtype == np.uint8
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    assert len({s['image'].tobytes() for s in one_by_one}) >= 6


@pytest.mark.parametrize('crop', CROPS)
def test_real_pictures_of_all_sizes(crop):
    """Colour and grey, sides down to tens of pixels: each gives a sample the network can take."""
    files = sorted(shared_data('ilsvrc_sample').glob('*/*.JPEG'))
    recipe = settings(crop=crop, scale_max=512, pca_colour=0.1, mirror=True)
    samples = [
        augment.train_example(file.read_bytes(), np.random.default_rng(place), recipe)
        for place, file in enumerate(files[::6])
    ]
    batch = {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    assert batch['image'].shape == (50, 224, 224, 3)
    inputs = np.asarray(preprocess.normalise(batch, base.get_config().data))
    # ImageNet's own mean is subtracted; deviations are those of its colours.
    assert np.abs(inputs.mean((0, 1, 2))).max() < 25
    assert 50 < inputs.std() < 90
