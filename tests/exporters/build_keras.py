"""Keras CNNs through Keras's own ONNX export and through tf2onnx: python build_keras.py FOLDER"""

import keras
import numpy as np
import tensorflow as tf
import tf2onnx
from common import SAMPLES, digits, output_folder, save_samples
from keras import layers


def plain(pools):
    """'same' with stride 2, BatchNormalization after ReLU, pooling, padding, a softmax.

    One model for each kind of pooling, all with the same weights.
    """
    x = keras.Input((8, 8, 1), name="image")
    first = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")
    norm = layers.BatchNormalization()
    second = layers.Conv2D(24, 3, activation="relu")
    last = layers.Dense(10, activation="softmax")

    def output(pool):
        y = pool(2, strides=1, padding="same")(norm(first(x)))
        y = second(layers.ZeroPadding2D(((0, 1), (1, 0)))(y))
        return last(layers.GlobalAveragePooling2D()(y))

    return [keras.Model(x, output(pool)) for pool in pools]


def residual(pools):
    """Three channels, a ReLU with a bound, a depthwise convolution, a sum, flattened NHWC."""
    x = keras.Input((8, 8, 3), name="image")
    first = layers.Conv2D(16, 3, strides=2, padding="same")
    depthwise = layers.DepthwiseConv2D(3, padding="same", use_bias=False)
    norm = layers.BatchNormalization()
    last = layers.Dense(10)

    def output(pool):
        y = layers.ReLU(max_value=6)(first(x))
        y = layers.ReLU()(layers.Add()([y, norm(depthwise(y))]))
        return last(layers.Flatten()(pool(2)(y)))

    return [keras.Model(x, output(pool)) for pool in pools]


def train(models, x, y, from_logits):
    """Train models that share their weights, the last epochs with fixed BatchNormalization."""
    together = keras.Model(models[0].input, [model.output for model in models])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    for trainable in (True, False):
        for layer in together.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.trainable = trainable
        together.compile(keras.optimizers.Adam(0.005), [loss] * len(models))
        together.fit(x, [y] * len(models), batch_size=64, epochs=15, verbose=0)


def coloured(images):
    """Images [N, 8, 8, 3] of random colours."""
    colours = np.random.default_rng(0).uniform(0.5, 1, (len(images), 1, 1, 3))
    return (images[..., None] * colours).astype(np.float32)


def export_keras(model, path):
    model.export(path, format="onnx", verbose=False)


def export_tf2onnx(model, path):
    shape = tf.TensorSpec(model.input.shape, tf.float32, name="image")
    function = tf.function(lambda image: model(image, training=False))
    tf2onnx.convert.from_function(function, [shape], opset=17, output_path=path)


def main():
    folder = output_folder()
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(0)
    train_x, test_x, train_y, test_y = digits()
    pools = [layers.MaxPooling2D, layers.AveragePooling2D]
    for name, build, prepare, from_logits, export in (
        ("keras", plain, lambda images: images[..., None], False, export_keras),
        ("tf2onnx", residual, coloured, True, export_tf2onnx),
    ):
        models = build(pools)
        train(models, prepare(train_x), train_y, from_logits)
        x = prepare(test_x[:SAMPLES])
        path = folder / f"{name}.onnx"
        save_samples(path, x, models[0](x, training=False), test_y[:SAMPLES])
        export(models[0], path)


if __name__ == "__main__":
    main()
