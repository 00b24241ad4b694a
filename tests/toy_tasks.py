"""Small SeqIO tasks of numbers, registered on import: example n holds nothing but the token n + 2, and EOS."""

import functools

import seqio
import tensorflow as tf

EXAMPLES = 25
VOCABULARY = seqio.PassThroughVocabulary(size=100, eos_id=1)


def numbers(split, shuffle_files, seed=None):
    return tf.data.Dataset.range(0 if split == "empty" else EXAMPLES)


def to_features(names):
    @seqio.map_over_dataset
    def convert(n):
        lengths = {"inputs": 1 + n % 4, "targets": 1 + n % 3}
        return {name: tf.fill([lengths[name]], tf.cast(n, tf.int32) + 2) for name in names}

    return convert


def through_python(dataset):
    return dataset.map(lambda n: tf.ensure_shape(tf.numpy_function(lambda x: x, [n], tf.int64), []))


def drop_everything(dataset):
    return dataset.filter(lambda n: n < 0)


def weigh_only_eos(dataset):
    return dataset.map(lambda example: {**example, "loss_weights": tf.concat([0 * example["targets"], [1]], axis=0)})


def share_right(targets, predictions):
    return {"share_right": sum(map(int.__eq__, targets, predictions)) / len(targets)}


def add(name, features=("inputs", "targets"), first=(), last=(), source=None, **options):
    seqio.TaskRegistry.add(
        name,
        source=source or seqio.FunctionDataSource(numbers, splits=("train", "validation", "empty")),
        preprocessors=[*first, to_features(features), *last, seqio.preprocessors.append_eos],
        output_features={feature: seqio.Feature(VOCABULARY, add_eos=True) for feature in features},
        **{"metric_fns": []} | options,
    )


add("toy", shuffle_buffer_size=10)
add("toy_weighted", last=[weigh_only_eos], shuffle_buffer_size=10)
add("toy_scored", metric_fns=[share_right, functools.partial(share_right)])
add("toy_targets", features=("targets",))
add("toy_inputs", features=("inputs",))
add("toy_in_python", first=[through_python])
add("toy_filtered", first=[seqio.CacheDatasetPlaceholder(), drop_everything])
add("toy_cacheable", last=[seqio.CacheDatasetPlaceholder()])
add("toy_cached_only", last=[seqio.CacheDatasetPlaceholder(required=True)])
add("toy_in_order", shuffle_buffer_size=None)
add("toy_no_files", source=seqio.TextLineDataSource({"train": "/nonexistent/text-*"}))
seqio.MixtureRegistry.add("toy_mixture", [("toy", 1.0), ("toy_in_order", 1.0)])
