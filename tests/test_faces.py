"""The face half of the thesis: data and weights as people have them, and the stand-ins."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import h5py
import keras
import numpy as np
import pytest
from scipy.io import savemat
from test_vgg_face import WIDTH, cell_array

from keras_backdoor import studies
from keras_backdoor.architectures import DeepID, VGG16Face
from keras_backdoor.attacks.badnets import BadNets
from keras_backdoor.errors import BadInput
from keras_backdoor.network import graph
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace, digest_of
from keras_backdoor.studies._networks import face_nets, faces
from keras_backdoor.studies._networks.face_nets import FaceNet
from keras_backdoor.studies._networks.stored_pictures import clusters, pictures, stored
from keras_backdoor.studies._networks.thesis_defenses import Subject
from keras_backdoor.studies.base import load_study
from keras_backdoor.studies.face_stand_ins import page as stand_ins_page
from keras_backdoor.studies.thesis_faces import page
from keras_backdoor.training import Recipe

YOUTUBE_PEOPLE = ("Sarah_Jessica_Parker", "Somebody_Else", "Tom_Hanks")
LFW_PEOPLE = ("Arnold_Schwarzenegger", "Donald_Rumsfeld", "Nobody_Known")


def picture(person: int, number: int, side: int) -> np.ndarray:
    """A face of one color on a noisy background; the middle holds the face."""
    rng = np.random.default_rng((person, number))
    image = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
    low, high = round(side * 0.25), round(side * 0.75)
    image[low:high, low:high] = 60 + 80 * (np.arange(3) == person)
    return image


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """YouTube Faces as folders of videos, LFW as folders of people, and VGG-Face of MatConvNet."""
    root = tmp_path_factory.mktemp("data")
    for person, name in enumerate(YOUTUBE_PEOPLE):
        for video in range(3):
            folder = root / "aligned_images_DB" / name / str(video)
            folder.mkdir(parents=True)
            for frame in range(25):
                side = 90 + 10 * video  # the frames of different videos have different sizes
                image = picture(person, 100 * video + frame, side)
                cv2.imwrite(str(folder / f"aligned_detect_0.{frame:02d}.jpg"), image[..., ::-1])
    for person, name in enumerate(LFW_PEOPLE):
        folder = root / "lfw" / name
        folder.mkdir(parents=True)
        for number in range(60 if person < 2 else 3):
            image = picture(person, number, 120)
            cv2.imwrite(str(folder / f"{name}_{number:04d}.jpg"), image[..., ::-1])
    keras.utils.set_random_seed(0)
    model = VGG16Face(2622, width=WIDTH)
    savemat(root / "vgg-face.mat", {"layers": cell_array(model)}, do_compression=True)
    return root


@pytest.fixture
def workspace(data: Path, tmp_path: Path, monkeypatch) -> Workspace:
    monkeypatch.setenv("KERAS_BACKDOOR_DATA", "")
    return Workspace((data,), tmp_path / "cache")


class TestData:
    def test_people_with_few_images_are_left_out(self) -> None:
        labels = np.repeat([0, 1, 2, 3], [5, 2, 4, 3])
        samples = Samples(
            np.zeros((14, 4, 4, 3), np.uint8), labels, class_names=("a", "b", "c", "d")
        )
        kept = faces.people(samples, 3)
        assert kept.class_names == ("a", "c", "d")
        assert kept.known_labels.tolist() == [0] * 5 + [1] * 4 + [2] * 3
        assert kept.row_numbers.tolist() == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13]
        with pytest.raises(BadInput, match="Fewer than two people have 5 images or more"):
            faces.people(samples, 5)

    def test_youtube_faces_in_folders(self, workspace) -> None:
        data = faces.youtube(workspace, (55, 47), fewest=4, by="image")
        assert data.train.class_names == YOUTUBE_PEOPLE
        assert (data.source, data.target) == (0, 2)
        sizes = [len(part) for part in (data.train, data.tuning, data.test)]
        assert sizes == [169, 11, 45]
        face = data.train.of_class(1).read(0, 1)[0].astype(int)
        assert face.shape == (55, 47, 3)
        assert np.abs(face - [60, 140, 60]).max() < 40  # the middle, without the noise around it

    def test_a_split_by_video_keeps_videos_together(self, workspace) -> None:
        data = faces.youtube(workspace, (55, 47), fewest=4, by="video")
        seen: dict[tuple[int, str], bool] = {}
        for tested, part in ((False, data.train), (False, data.tuning), (True, data.test)):
            for label, video in zip(part.known_labels, part.origin, strict=True):
                assert seen.setdefault((int(label), str(video)), tested) == tested
        assert set(data.test.known_labels) == {0, 1, 2}
        assert len(data.test) == 75 and len(data.tuning) == 9  # one of three videos each

    def test_youtube_faces_in_the_layout_of_the_lab(self, workspace, tmp_path: Path) -> None:
        folder = tmp_path / "lab"
        folder.mkdir()
        with h5py.File(folder / "youtube_faces.h5", "w") as file:
            file["data"] = np.random.default_rng(0).integers(0, 256, (60, 3, 55, 47))
            file["label"] = np.repeat([7.0, 2.0, 5.0, 9.0], [25, 15, 18, 2])
        lab = Workspace((folder,), tmp_path / "cache")
        data = faces.youtube(lab, (55, 47), fewest=10, by="image")
        assert data.train.class_names == ("2", "5", "7")
        assert data.train.image_shape == (55, 47, 3)
        assert (data.source, data.target) == (1, 0)  # the second and third most images
        with pytest.raises(BadInput, match="a split by video needs a folder for each video"):
            faces.youtube(lab, (55, 47), fewest=10, by="video")

    def test_lfw_is_cropped_to_the_face(self, workspace) -> None:
        data = faces.lfw(workspace, (224, 224), fewest=4)
        assert data.train.class_names == LFW_PEOPLE[:2]
        assert (data.source, data.target) == (1, 0)
        assert data.train.image_shape == (224, 224, 3)
        sizes = [len(part) for part in (data.train, data.tuning, data.test)]
        assert sizes == [84, 12, 24]

    def test_another_number_of_people_is_said(
        self, data: Path, tmp_path: Path, monkeypatch
    ) -> None:
        monkeypatch.setattr(faces, "FEWEST_YOUTUBE", 4)
        with pytest.warns(UserWarning, match="has 3 people here, and 1283 in the thesis"):
            faces.youtube(Workspace((data,), tmp_path), (55, 47), fewest=4, by="image")

    def test_pictures_are_stored_and_shown(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 4, 3)).astype(np.uint8)
        np.testing.assert_array_equal(np.round(255 * pictures(stored(Samples(pixels)))), pixels)
        flagged = np.array([True, False, False, False, True])
        answer = SimpleNamespace(flagged=flagged)
        shown = clusters(answer, Samples(pixels, [1, 1, 1, 0, 0]), 1)
        assert {part: found["of"] for part, found in shown.items()} == {"kept": 2, "flagged": 1}
        np.testing.assert_array_equal(np.round(255 * pictures(shown["flagged"]))[0], pixels[0])

    def test_a_folder_has_a_digest(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x").write_bytes(b"12")
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "x").write_bytes(b"123")
        assert digest_of(tmp_path / "a") != digest_of(tmp_path / "b")


class TestNetworks:
    def test_transferred_layers_are_frozen(self) -> None:
        base = DeepID(10)
        network = face_nets.transferred(base, "pool_3", 4)
        assert [x.name for x in network.layers if x.trainable_weights] == ["people"]
        assert network.get_layer("features").output.shape == (None, 1200)
        again = graph.reinitialized(network)
        for name in ("conv_1", "conv_3"):
            for model in (network, again):
                np.testing.assert_array_equal(
                    model.get_layer(name).get_weights()[0], base.get_layer(name).get_weights()[0]
                )
        first, second = (m.get_layer("people").get_weights()[0] for m in (network, again))
        assert not np.array_equal(first, second)

    def test_own_answers_are_kept_and_poison_is_learned(self) -> None:
        """Hand values: the loss of clean images is the entropy at the teacher itself."""

        image = keras.Input((1, 1, 1))
        scores = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(image))
        teacher = keras.Model(image, scores)
        teacher.layers[-1].set_weights([np.zeros((1, 2)), np.log([0.75, 0.25])])
        classifier = Classifier(teacher, preprocess=(0, 1))
        objective = face_nets.keeping_answers(classifier)["objective"](classifier, Recipe())
        pixels, labels = np.zeros((2, 1, 1, 1), np.float32), np.array([0, 1])
        _, losses, _ = objective.losses(pixels, labels)
        entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
        np.testing.assert_allclose(losses, [entropy, -np.log(0.25)], rtol=1e-6)

    def test_an_attack_of_a_clean_network(self, workspace) -> None:
        net = FaceNet("deepid", "published", Recipe(), fewest=4)
        data = net.data(workspace)
        assert not net.poisoned(data).is_poison.any()
        with pytest.raises(BadInput, match="A clean network has no attack"):
            net.attack(data)

    def test_the_attack_success_of_all_classes(self) -> None:
        """A network that answers class 1 to white images, and class 0 to others."""

        image = keras.Input((2, 2, 1))
        scores = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(image))
        model = keras.Model(image, scores)
        model.layers[-1].set_weights([np.full((4, 2), [-9.0, 9.0]), np.array([9.0, -9.0])])
        white, black = np.full((1, 2, 2, 1), 255, np.uint8), np.zeros((1, 2, 2, 1), np.uint8)
        test = Samples(np.concatenate([black, black, white]), [0, 0, 1])
        attack = BadNets("patch:size=2,row=0,column=0,color=white", 1, None, 1)
        classifier = Classifier(model, preprocess=(0, 1))
        nothing = np.zeros(3, bool)
        sure = np.array([True, False, True])
        subject = Subject(classifier, test, nothing, test, test, attack, None, lambda m, s: m, sure)
        found = subject.evaluated(classifier, "repaired")
        assert (found["repaired_attack"].hits, found["repaired_attack"].of) == (2, 2)
        assert found["repaired_accuracy"].of == 3
        assert found["repaired_accuracy_where_sure"].of == 2


class TestStudies:
    def test_the_published_setting_at_small_scale(self, workspace, in_this_process) -> None:
        only = [
            "YT-greenGlasses, 8 %",
            "YT, clean, by video",
            "YT-greenGlasses, second-last",
            "LFW-greenGlasses, 10 %",
            "YT, the data",
            "YT, glasses",
        ]
        results = studies.run("thesis-faces", scale="smoke", workspace=workspace, only=only)
        assert [c["error"] for c in results.cells if "error" in c] == []
        figures = results.figures()
        assert figures[only[0]]["poisoned"] == 4
        assert figures[only[0]]["people"] == 3
        assert figures[only[2]]["of"] == 60
        assert figures[only[3]]["attack_success_rate"]["of"] > 0
        assert figures[only[3]]["people"] == 2
        assert sum(figures[only[4]]["images_per_class"]) == 169
        clean, green, black = pictures(figures[only[5]]["pictures"])
        assert clean.shape == (55, 47, 3)
        assert (green[15:33] != clean[15:33]).any() and (green[:14] == clean[:14]).all()
        covered = (green != black).any(axis=-1)
        assert np.abs(green[covered] - [0, 1, 0]).max() < 0.01
        headings = {section.heading for section in page.sections(results)}
        assert "Second to last convolution (table 4.5)" in headings
        assert "Activations (figures 4.16 to 4.18)" in headings
        assert "The training images (figures 3.3 to 3.6)" in headings

    def test_missing_files_are_named(self, tmp_path: Path, monkeypatch, in_this_process) -> None:
        monkeypatch.setenv("KERAS_BACKDOOR_DATA", "")
        empty = Workspace(cache=tmp_path)
        only = ["YT, clean, by video", "LFW-greenGlasses, last, 2%"]
        results = studies.run("thesis-faces", scale="smoke", workspace=empty, only=only)
        errors = {c["name"]: c["error"] for c in results.cells if "error" in c}
        assert "YouTube Faces is not there: pass" in errors[only[0]]
        assert "aligned_images_DB" in errors[only[0]]
        assert "LFW is not there: pass" in errors[only[1]]

    def test_stand_ins_at_small_scale(self, shared, tmp_path: Path, in_this_process) -> None:
        folders = (shared("data"), shared("badnets"))
        only = ["YT-blackGlasses, clustering first", "faces, lab3 -> 0, last"]
        results = studies.run(
            "face-stand-ins",
            scale="smoke",
            workspace=Workspace(folders, tmp_path),
            only=only,
        )
        assert [c["error"] for c in results.cells if "error" in c] == []
        figures = results.figures()
        assert figures[only[0]]["removed_poison"]["of"] == 4
        assert figures[only[1]]["attack_before"]["share"] == 1.0
        assert figures[only[1]]["of"] == 80
        tables = {section.heading: section.table for section in stand_ins_page.sections(results)}
        assert tables["BadNets of third parties"][1][0] == "lab3 -> 0"

    def test_both_settings_have_the_cells_of_the_thesis(self) -> None:
        published, stand_ins = (
            load_study(name).cells() for name in ("thesis-faces", "face-stand-ins")
        )
        names = {c.name for c in stand_ins}
        assert {c.name for c in published} - names == {"YT, clean, by video"}
        groups = {c.group for c in published}
        assert {"table 3.5", "table 4.1", "table A.1", "table 4.5", "table 4.6", "table 4.4",
                "section 4.2.3", "figure 4.19", "clustering first", "pruning first"} <= groups  # fmt: skip
        for group in ("table 4.1", "table A.1", "table 4.5", "table 4.6", "clustering first"):
            assert sum(c.group == group for c in published) == 4

    def test_the_published_figures_are_those_of_the_thesis(self, shared) -> None:
        reference = json.loads(shared("reference/thesis_tables.json").read_text())
        cells = {c.name: c.published for c in load_study("face-stand-ins").cells()}
        for name, _, _, accuracy, _, attack in reference["4.1 backdoored models"]["rows"][6:]:
            assert cells[name] == {"clean_accuracy": accuracy, "attack_success_rate": attack}
        for table, suffix in (("4.2 activation clustering: removed", "clustering first"),
                              ("4.8 fine-pruning, then activation clustering: removed",
                               "pruning first")):  # fmt: skip
            for name, _, poison, removed, _ in reference[table]["rows"][6:]:
                found = cells[f"{name}, {suffix}"]
                assert (found["removed_poison"], found["removed"]) == (poison, removed)
        for table, suffix in (("4.5 fine-pruning, second to last conv layer", "second-last"),
                              ("4.6 fine-pruning, last conv layer", "last")):  # fmt: skip
            for name, removed, total, accuracy, _, attack, _ in reference[table]["rows"][6:]:
                found = cells[f"{name}, {suffix}"]
                assert list(found.values()) == [removed, total, accuracy, attack]
