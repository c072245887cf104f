"""The tf.data row of benchmarks/input.py, which runs this with an interpreter that has TensorFlow.

Reads recipes (JSON, one a line) and answers with the CPU seconds that one pass over the pictures
took: crop first, one thread.
"""

import json
import os
import pathlib
import sys
import time

os.environ['CUDA_VISIBLE_DEVICES'] = ''
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'

import tensorflow as tf

SIZE = 224


def window(shape: tf.Tensor, recipe: dict) -> tf.Tensor:
    """A random box [top, left, height, width] in whole pixels, by the recipe."""
    if recipe['crop'] == 'random_resized':
        start, size, _ = tf.image.sample_distorted_bounding_box(
            shape,
            tf.zeros([1, 0, 4]),
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            use_image_if_no_bounding_boxes=True,
            max_attempts=10,
        )
        return tf.stack([start[0], start[1], size[0], size[1]])
    shorter = tf.cast(tf.minimum(shape[0], shape[1]), tf.float32)
    scale = tf.random.uniform([], recipe['scale_min'], recipe['scale_max'] + 1, tf.int32)
    side = tf.cast(tf.round(SIZE * shorter / tf.cast(scale, tf.float32)), tf.int32)
    top = tf.random.uniform([], 0, shape[0] - side + 1, tf.int32)
    left = tf.random.uniform([], 0, shape[1] - side + 1, tf.int32)
    return tf.stack([top, left, side, side])


def sample(encoded: tf.Tensor, recipe: dict) -> tf.Tensor:
    box = window(tf.image.extract_jpeg_shape(encoded), recipe)
    pixels = tf.image.decode_and_crop_jpeg(encoded, box, channels=3)
    resized = tf.image.resize(pixels, [SIZE, SIZE], antialias=recipe['antialias'])
    resized = tf.image.random_flip_left_right(resized)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def pipeline(pictures: list[bytes], recipe: dict) -> tf.data.Dataset:
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    options.deterministic = True
    data = tf.data.Dataset.from_tensor_slices(pictures)
    data = data.map(lambda encoded: sample(encoded, recipe)).batch(25, drop_remainder=True)
    return data.with_options(options)


def main() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    folder = pathlib.Path(sys.argv[1])
    files = sorted(f for f in folder.rglob('*') if f.suffix.lower() in ('.jpeg', '.jpg'))
    pictures = [file.read_bytes() for file in files]
    pipelines: dict[str, tf.data.Dataset] = {}
    print('ready', flush=True)
    for line in sys.stdin:
        if line not in pipelines:
            pipelines[line] = pipeline(pictures, json.loads(line))
        started = time.process_time()
        for _ in pipelines[line]:
            pass
        print(time.process_time() - started, flush=True)


if __name__ == '__main__':
    main()
