"""The stream of samples is a function of seed and position, whatever reads it."""

import subprocess
import sys
import time

import numpy as np
import pytest

from cnn_arch import mesh as meshes
from cnn_arch.data import decode, loader, sources
from cnn_arch.errors import UserError
from configs import base
from tests.shared import ROOT

SIZE = 32  # images of the sources below
NAMES = tuple(map(str, range(SIZE)))
BATCH = 16


def config_of(**data):
    config = base.get_config()
    config.data.augment.size = 24
    config.data.augment.scale_min = 28
    config.data.augment.scale_max = 40
    config.data.augment.pca_colour = 0.1
    config.train.batch_size = BATCH
    config.data.update(data)
    return config.lock()


def source_of(broken: tuple[int, ...] = ()) -> sources.ArraySource:
    """Pictures whose first pixel tells their index; those of `broken` do not decode."""

    class Broken(sources.ArraySource):
        def __getitem__(self, index: int) -> sources.Example:
            example = super().__getitem__(index)
            if index in broken:
                return sources.Example(b'\xff\xd8 no picture', example.label, f'broken {index}')
            return example

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (SIZE, 40, 36, 3), dtype=np.uint8)
    return Broken('noise', NAMES, SIZE, images, np.arange(SIZE, dtype=np.int32))


def stream(config, steps: range, hosts: int = 1, source=None) -> list[dict[str, np.ndarray]]:
    """The global batches of `steps`, put together from what each of `hosts` hosts reads."""
    reader = loader.SampleReader(source or source_of(), config)
    part = BATCH // hosts
    batches = []
    for step in steps:
        rows = [slice(h * part, (h + 1) * part) for h in range(hosts)]
        pieces = [loader.host_batch(reader, BATCH, row, step) for row in rows]
        batches.append({key: np.concatenate([p[key] for p in pieces]) for key in pieces[0]})
    return batches


def assert_same(one: list[dict], other: list[dict]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize('hosts', [2, 4])
def test_same_for_any_number_of_hosts(hosts: int) -> None:
    assert_same(stream(config_of(), range(5)), stream(config_of(), range(5), hosts))


def test_any_step_is_reached_at_once() -> None:
    everything = stream(config_of(), range(9))
    assert_same(everything[7:], stream(config_of(), range(7, 9)))


def test_seeking_far_takes_no_time() -> None:
    """Step 400,000 of a stream over 1.28 million images: under a second."""
    config = config_of()

    class Large(sources.ArraySource):
        def __len__(self) -> int:
            return 1_281_167

        def __getitem__(self, index: int) -> sources.Example:
            return super().__getitem__(index % SIZE)

    images = np.zeros((SIZE, 40, 36, 3), np.uint8)
    source = Large('large', NAMES, SIZE, images, np.arange(SIZE, dtype=np.int32))
    began = time.monotonic()
    stream(config, range(400_000, 400_001), source=source)
    assert time.monotonic() - began < 1


def test_each_epoch_is_a_permutation_of_all_images() -> None:
    steps_per_epoch = SIZE // BATCH
    for epoch in range(3):
        steps = range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)
        labels = np.concatenate([batch['label'] for batch in stream(config_of(), steps)])
        assert sorted(labels) == list(range(SIZE))
    orders = [tuple(loader.permutation(0, epoch, 1000)) for epoch in range(20)]
    assert len(set(orders)) == 20
    # A global shuffle: places of one epoch tell nothing of places of the next.
    correlation = np.corrcoef(orders[0], orders[1])[0, 1]
    assert abs(correlation) < 4 / np.sqrt(1000)


def test_augmentation_differs_from_epoch_to_epoch() -> None:
    steps_per_epoch = SIZE // BATCH
    epochs = [
        {
            int(label): image
            for batch in stream(config_of(), range(e * steps_per_epoch, (e + 1) * steps_per_epoch))
            for label, image in zip(batch['label'], batch['image'], strict=True)
        }
        for e in range(2)
    ]
    same = sum(np.array_equal(epochs[0][k], epochs[1][k]) for k in range(SIZE))
    assert same == 0


def test_seed_changes_everything() -> None:
    config = config_of()
    other = config.copy_and_resolve_references()
    other.seed = 1
    one, two = stream(config, range(1)), stream(other, range(1))
    assert not np.array_equal(one[0]['label'], two[0]['label'])


def test_threads_do_not_matter_and_waiting_is_counted() -> None:
    expected = stream(config_of(), range(6))
    for threads in (1, 3):
        config = config_of(threads=threads)
        mesh = meshes.create_mesh(config.mesh)
        batches = loader.TrainingBatches(source_of(), config, mesh, 0, 6)
        got = [{key: np.asarray(value) for key, value in batch.items()} for batch in batches]
        assert_same(expected, got)
        assert batches.waited > 0


WORKERS = """
import sys
import numpy as np
from cnn_arch import mesh
from cnn_arch.data import loader
from tests.data.test_loader import config_of, source_of

if __name__ == '__main__':
    config = config_of(workers=int(sys.argv[1]), on_bad_image=sys.argv[2])
    source = source_of(broken=(3, 5, 9))
    batches = loader.TrainingBatches(source, config, mesh.create_mesh(config.mesh), 2, 6)
    for batch in batches:
        for key in sorted(batch):
            print(key, np.asarray(batch[key]).astype(np.float64).sum(), batch[key].shape)
"""


def test_workers_do_not_matter(tmp_path) -> None:
    script = tmp_path / 'workers.py'
    script.write_text(WORKERS)
    outputs = [
        subprocess.run(
            [sys.executable, str(script), str(workers), 'skip'],
            cwd=ROOT,
            env={'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'PATH': ''},
            capture_output=True,
            text=True,
            timeout=120,
        )
        for workers in (0, 1, 2)
    ]
    assert outputs[0].returncode == 0, outputs[0].stderr
    assert outputs[0].stdout.count('image') == 4
    for output in outputs[1:]:
        assert output.stdout == outputs[0].stdout, output.stderr


def test_a_bad_image_stops_the_run_with_its_key() -> None:
    with pytest.raises(UserError, match='broken 3'):
        stream(config_of(), range(2), source=source_of(broken=(3,)))


@pytest.mark.parametrize('hosts', [1, 2])
def test_a_bad_image_is_replaced_deterministically(hosts: int) -> None:
    config = config_of(on_bad_image='skip')
    reader = loader.SampleReader(source_of(broken=(3, 5)), config)
    one = [loader.host_batch(reader, BATCH, slice(0, BATCH), step) for step in range(2)]
    told = np.concatenate([batch['replaced'] for batch in one])
    np.testing.assert_array_equal(told, np.isin(loader.permutation(0, 0, SIZE), (3, 5)))
    assert not {3, 5} & {int(label) for batch in one for label in batch['label']}
    assert_same(one, stream(config, range(2), hosts, source_of(broken=(3, 5))))


def test_nothing_decodes() -> None:
    config = config_of(on_bad_image='skip')
    with pytest.raises(UserError, match='100 images in a row'):
        stream(config, range(1), source=source_of(broken=tuple(range(SIZE))))
    assert issubclass(decode.DecodeError, UserError)


def test_a_seed_of_its_own_for_sampling() -> None:
    """-1: that of the run, the same stream as ever; else order and augmentation are the seed's."""

    def seeded(seed: int, data_seed: int) -> list[dict[str, np.ndarray]]:
        config = config_of(seed=data_seed).copy_and_resolve_references()
        config.seed = seed
        return stream(config, range(3))

    assert_same(seeded(5, -1), seeded(0, 5))
    assert_same(seeded(5, 0), seeded(0, -1))
    one, other = seeded(5, -1), seeded(5, 6)
    assert (one[0]['label'] != other[0]['label']).any()
