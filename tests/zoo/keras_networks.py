"""Networks of Keras, which keep channels last: their files are full of transpositions. Keras runs on torch here."""

import importlib.metadata

import exporters
import samples
from family import Family, Made, generator, liven


def calibrated(model, images):
    """As `family.calibrate`: one pass in training sets the statistics of batch normalizations."""
    import keras

    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    model(images, training=True)
    return model


def write(model, path):
    model.export(path, format="onnx", verbose=False)
    return path


def network(name, kind, side, **options):
    def make(folder):
        import keras

        shape = (side, side, 3)
        model = getattr(keras.applications, kind)(weights=None, input_shape=shape, classes=100, classifier_activation=None, **options)
        last = lambda batch, what: samples.pictures(generator(f"{name} {what}"), batch, side, side, 0.5, 0.5).transpose(0, 2, 3, 1).copy()
        liven(model)
        calibrated(model, last(4, "calibration"))
        path = write(model, folder / "exported.onnx")
        port = exporters.input_names(path)[0]
        yield Made(name, path, [{port: last(batch, f"{batch}")} for batch in (3, 1)])

    return Family("keras", SOURCE, [name], make)


def sequence(folder):
    """Words through an embedding, attention, a bidirectional layer and pooling. Keras unrolls the recurrence: the length is fixed."""
    import keras

    words = keras.Input((24,), dtype="int64", name="words")
    hidden = keras.layers.Embedding(500, 48)(words)
    mixed = keras.layers.MultiHeadAttention(4, 12)(hidden, hidden)
    hidden = hidden + mixed
    hidden = keras.layers.Bidirectional(keras.layers.LSTM(32, return_sequences=True))(hidden)
    hidden = keras.layers.Conv1D(32, 3, padding="same", activation="gelu")(hidden)
    model = keras.Model(words, keras.layers.Dense(7)(keras.layers.GlobalMaxPooling1D()(hidden)))
    liven(model)
    rng = generator("keras-sequence")
    model(samples.tokens(rng, (2, 24), 1, 500))
    path = write(model, folder / "exported.onnx")
    port = exporters.input_names(path)[0]
    yield Made("keras-sequence", path, [{port: samples.tokens(rng, (batch, 24), 1, 500)} for batch in (3, 1)])


SOURCE = f"keras {importlib.metadata.version('keras')}, {exporters.TORCHSCRIPT}"
FAMILIES = [
    network("keras-mobilenet-v2", "MobileNetV2", 128),
    network("keras-mobilenet-v3-small", "MobileNetV3Small", 128, include_preprocessing=False),
    network("keras-efficientnet-b0", "EfficientNetB0", 128),
    Family("keras", SOURCE, ["keras-sequence"], sequence),
]
