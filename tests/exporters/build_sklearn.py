"""scikit-learn's MLPs through skl2onnx: python build_sklearn.py FOLDER"""

import numpy as np
from common import SAMPLES, digits, output_folder, save_samples
from skl2onnx import to_onnx
from sklearn.datasets import load_diabetes
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def classifiers(folder):
    """One MLP with and without ZipMap, and one behind a StandardScaler."""
    train_x, test_x, train_y, test_y = digits()
    train_x, test_x = train_x.reshape(-1, 64), test_x.reshape(-1, 64)[:SAMPLES]
    plain = MLPClassifier((48, 32), max_iter=400, random_state=0).fit(train_x, train_y)
    scaled = make_pipeline(StandardScaler(), MLPClassifier((48,), max_iter=400, random_state=0))
    scaled.fit(train_x, train_y)
    for name, model, options in (
        ("zipmap", plain, None),
        ("nozipmap", plain, {"zipmap": False}),
        ("pipeline", scaled, {"zipmap": False}),
    ):
        path = folder / f"sklearn-{name}.onnx"
        path.write_bytes(to_onnx(model, test_x[:1], options=options).SerializeToString())
        save_samples(path, test_x, model.predict_proba(test_x), test_y[:SAMPLES])


def regressors(folder):
    """An MLP in float32, and in float64 as its training data are."""
    x, y = load_diabetes(return_X_y=True, scaled=False)
    x, y = (x - x.mean(0)) / x.std(0), y / 100
    model = MLPRegressor(hidden_layer_sizes=(32, 16), max_iter=2000, random_state=0)
    model.fit(x[SAMPLES:], y[SAMPLES:])
    for name, dtype in (("regressor", np.float32), ("regressor-double", np.float64)):
        samples = x[:SAMPLES].astype(dtype)
        path = folder / f"sklearn-{name}.onnx"
        path.write_bytes(to_onnx(model, samples[:1]).SerializeToString())
        save_samples(path, samples, model.predict(samples))


if __name__ == "__main__":
    classifiers(output_folder())
    regressors(output_folder())
