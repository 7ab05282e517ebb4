"""Serving: the exported model through the official API, and the examples of docs/serving.md."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_backdoor._internals.backend import keras
from keras_backdoor.defenses.goodnet import goodnet
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.serving import export

ROOT = Path(__file__).parents[1]
SHAPE = (6, 5, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (400, *SHAPE), dtype=np.uint8)


def network(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [keras.Input(SHAPE), layers.Flatten(), layers.Dense(4, activation="softmax")]
    )


@pytest.fixture(scope="module")
def guard() -> Classifier:
    """A guard that rejects some of the images."""
    b = Classifier(network(1), preprocess=(-1, 1))
    rejected = Classifier(goodnet(b, Classifier(network(2), (-1, 1))), (-1, 1), 4)
    assert 0.1 < (rejected.predict(samples()) == 4).mean() < 0.95
    return rejected


def samples() -> Any:
    from keras_backdoor.samples import Samples

    return Samples(IMAGES)


@pytest.fixture(scope="module")
def folder(guard, tmp_path_factory) -> Path:
    return export(guard, tmp_path_factory.mktemp("serving") / "signs")


@pytest.fixture(scope="module")
def address(folder) -> Iterator[str]:
    """The address of a server in a process without this package."""
    program = Path(__file__).with_name("serving_process.py")
    process = subprocess.Popen(
        [sys.executable, "-P", program, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        port = process.stdout.readline().strip()  # type: ignore[union-attr]
        yield f"127.0.0.1:{port}"
        process.stdin.close()  # type: ignore[union-attr]


def example(name: str) -> str:
    """The code of an example in docs/serving.md."""
    text = (ROOT / "docs" / "serving.md").read_text()
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def run(*names: str, **given: Any) -> dict[str, Any]:
    for name in names:
        exec(compile(example(name), name, "exec"), given)
    return given


def test_the_client_of_the_documentation_gets_the_answers_of_the_guard(
    guard, folder, address, capsys
) -> None:
    answer = run("client", address=address, images=IMAGES)["answer"]
    np.testing.assert_allclose(answer["scores"], guard.scores(samples()), atol=1e-6)
    np.testing.assert_array_equal(answer["class_id"], guard.predict(samples()))
    np.testing.assert_array_equal(answer["rejected"], guard.predict(samples()) == 4)
    assert (answer["scores"].dtype, answer["class_id"].dtype) == (np.float32, np.int64)
    rejected = int((guard.predict(samples()) == 4).sum())
    capsys.readouterr()
    run("batches", folder=str(folder), images=IMAGES)
    assert capsys.readouterr().out == f"{rejected} of 400 rejected\n"


def test_the_watch_raises_when_more_is_rejected_than_clean_images_explain(guard, address) -> None:
    rejected = guard.predict(samples()) == 4
    clean, triggered = IMAGES[~rejected], IMAGES[rejected]
    given = {"address": address, "images": IMAGES}
    run("client", "watch", **given, batches=[clean[:40]] * 10)
    with pytest.raises(RuntimeError, match=r"\d+ of the last \d+ rejected"):
        run("client", "watch", **given, batches=[clean[:40], *[triggered[:20]] * 6])


def test_saved_model_cli_shows_and_runs_the_signatures(guard, folder, tmp_path) -> None:
    tool = Path(sys.executable).with_name("saved_model_cli")
    shown = subprocess.run(
        [tool, "show", "--dir", folder, "--all"], capture_output=True, text=True, check=True
    ).stdout
    for text in ("serving_default", "serving_uint8", "serving_raw", "DT_BOOL", "(-1, 6, 5, 3)"):
        assert text in shown
    np.save(tmp_path / "images.npy", IMAGES[:20].astype(np.float32))
    command = [tool, "run", "--dir", folder, "--tag_set", "serve", "--signature_def",
               "serving_default", "--inputs", f"images={tmp_path / 'images.npy'}",
               "--outdir", tmp_path]  # fmt: skip
    subprocess.run(command, capture_output=True, check=True)
    expected = guard.scores(samples())[:20]
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected, atol=1e-6)


def test_the_server_can_warm_up(folder) -> None:
    from tensorflow_serving.apis import prediction_log_pb2

    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    model, asked = tf.saved_model.load(str(folder)), []
    for record in tf.data.TFRecordDataset(str(path)):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        assert request.model_spec.name == "signs"
        asked.append(request.model_spec.signature_name)
        image = tf.make_ndarray(request.inputs["images"])
        answer = model.signatures[asked[-1]](images=tf.constant(image))
        assert answer["scores"].shape == (1, 5)
    assert asked == ["serving_default", "serving_uint8", "serving_raw"]


def test_the_configuration_is_one_that_the_server_reads(folder) -> None:
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((folder.parent / "models.config").read_text(), config)
    (entry,) = config.model_config_list.config
    assert (entry.name, entry.base_path) == ("signs", "/models/signs")


def test_a_model_of_any_size_can_be_exported(tmp_path) -> None:
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((None, None, 1)), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    )
    folder = export(Classifier(model, preprocess=(0, 1)), tmp_path / "any")
    served = tf.saved_model.load(str(folder)).signatures["serving_uint8"]
    answer = served(images=tf.zeros((2, 7, 9, 1), tf.uint8))
    assert not answer["rejected"].numpy().any()
