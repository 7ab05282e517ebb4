"""BayLIME: the regression by hand and against scikit-learn, the segments, the prior, bad input."""

import json

import numpy as np
import pytest
from sklearn.linear_model import BayesianRidge

from keras_backdoor._internals.backend import keras
from keras_backdoor.answers import load_answer
from keras_backdoor.explanations import BayLIME
from keras_backdoor.explanations._bayesian_ridge import Regressions
from keras_backdoor.explanations._segments import segmented
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.reports import page_of
from keras_backdoor.samples import Samples


def draw(batch: int = 3, n: int = 30, m: int = 6, seed: int = 0) -> Regressions:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, (batch, n, m)).astype(float)
    beta = rng.normal(size=(batch, m))
    y = np.einsum("bnm,bm->bn", x, beta) + 0.1 * rng.normal(size=(batch, n))
    return Regressions(x, y, rng.uniform(0.5, 1, (batch, n)), rng.normal(size=(batch, m)))


class TestRegression:
    def test_the_posterior_by_the_formula(self) -> None:
        data = draw()
        fixed = np.array([2.0, 5.0, 1.0]), np.array([0.5, 1.0, 3.0])
        found = data.posterior(*fixed, np.ones(3, bool))
        for i in range(3):
            x, w = data.x[i], np.diag(data.weights[i])
            s = np.linalg.inv(fixed[1][i] * np.eye(6) + fixed[0][i] * x.T @ w @ x)
            mean = s @ (fixed[1][i] * data.prior_mean[i] + fixed[0][i] * x.T @ w @ data.y[i])
            np.testing.assert_allclose(found.mean[i], mean, atol=1e-10)
            np.testing.assert_allclose(found.covariance[i], s, atol=1e-10)

    def test_an_infinite_precision_leaves_the_prior(self) -> None:
        """Without a warning of an overflow; the other data sets are not touched."""
        data, converged = draw(), np.ones(3, bool)
        noise, prior = np.array([2.0, np.inf, 1.0]), np.array([0.5, 1.0, 3.0])
        found = data.posterior(noise, prior, converged)
        np.testing.assert_array_equal(found.diverged, [False, True, False])
        np.testing.assert_array_equal(found.converged, [True, False, True])
        np.testing.assert_array_equal(found.mean[1], data.prior_mean[1])
        known = data.posterior(np.array([2.0, 1.0, 1.0]), prior, converged)
        np.testing.assert_array_equal(found.mean[[0, 2]], known.mean[[0, 2]])

    def test_the_precisions_are_those_of_scikit_learn(self) -> None:
        data = draw()
        plain = Regressions(data.x, data.y, np.ones_like(data.y), np.zeros_like(data.prior_mean))
        found = plain.fitted()
        assert found.converged.all()
        for i in range(3):
            known = BayesianRidge(
                fit_intercept=False, alpha_1=0, alpha_2=0, lambda_1=0, lambda_2=0, tol=1e-9,
                max_iter=1000,
            ).fit(data.x[i], data.y[i])  # fmt: skip
            np.testing.assert_allclose(found.mean[i], known.coef_, atol=1e-3)
            assert found.noise[i] == pytest.approx(known.alpha_, rel=1e-2)
            assert found.prior[i] == pytest.approx(known.lambda_, rel=1e-2)

    def test_a_prior_mean_is_a_shift(self) -> None:
        """beta - mu_0 has the posterior of a regression of y - X mu_0 without a prior mean."""
        data = draw()
        shifted = data.y - np.einsum("bnm,bm->bn", data.x, data.prior_mean)
        other = Regressions(data.x, shifted, data.weights, np.zeros_like(data.prior_mean)).fitted()
        found = data.fitted()
        np.testing.assert_allclose(found.mean - data.prior_mean, other.mean, atol=1e-8)
        np.testing.assert_allclose(found.covariance, other.covariance, atol=1e-8)

    def test_fewer_columns_are_columns_of_zeros(self) -> None:
        data = draw(batch=1)
        wide = np.concatenate([data.x, np.zeros((1, 30, 4))], axis=2)
        prior = np.concatenate([data.prior_mean, np.zeros((1, 4))], axis=1)
        found = Regressions(wide, data.y, data.weights, prior).fitted()
        np.testing.assert_allclose(found.mean[:, :6], data.fitted().mean, atol=1e-8)
        np.testing.assert_allclose(found.mean[:, 6:], 0, atol=1e-12)

    def test_constant_answers_stay_within_the_bounds(self) -> None:
        data = draw()
        found = Regressions(
            data.x, np.zeros_like(data.y), data.weights, 0 * data.prior_mean
        ).fitted()
        assert np.isfinite(found.mean).all() and np.isfinite(found.covariance).all()
        assert (found.noise <= 1e6).all() and (found.prior <= 1e6).all()

    def test_the_precisions_of_the_notebook(self) -> None:
        """Its loop, written out: no prior mean, an unweighted error, unweighted eigenvalues."""
        data = draw()
        found = data.fitted_as_seed()
        for i in range(3):
            x, y, w = data.x[i], data.y[i], np.diag(data.weights[i])
            values, lam, alpha, last = np.linalg.eigvalsh(x.T @ x), 0.1, 0.1, (0.0, 0.0)
            for _ in range(5000):
                gamma = (alpha * values / (lam + alpha * values)).sum()
                mean = np.linalg.inv(lam * np.eye(6) + alpha * x.T @ w @ x) @ (alpha * x.T @ w @ y)
                lam, alpha = gamma / (mean @ mean), (30 - gamma) / ((y - x @ mean) ** 2).sum()
                if abs(lam - last[0]) < 1e-3 and abs(alpha - last[1]) < 1e-3:
                    break
                last = lam, alpha
            assert found.prior[i] == pytest.approx(lam, rel=1e-6)
            assert found.noise[i] == pytest.approx(alpha, rel=1e-6)
        assert not np.allclose(found.mean, data.fitted().mean, atol=1e-4)


def pixel_net() -> Classifier:
    """Class 1 if and only if the pixel (10, 10) is bright."""
    weights = np.zeros((12, 12, 1, 2))
    weights[10, 10, 0, 1] = 20.0
    model = keras.Sequential(
        [keras.Input((12, 12, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    model.layers[-1].set_weights([weights.reshape(-1, 2), np.array([0.0, -10.0])])
    return Classifier(model, (0, 1))


@pytest.fixture(scope="module")
def pictures() -> Samples:
    """A bright square in the middle, and the pixel (10, 10)."""
    images = np.zeros((6, 12, 12, 1), np.uint8)
    images[:, 4:8, 4:8] = (200 + 5 * np.arange(6))[:, None, None, None]
    images[:, 10, 10] = 255
    return Samples(images)


@pytest.mark.parametrize("prior", ["zero", "in", "out"])
@pytest.mark.parametrize("segmentation", ["watershed", "quickshift"])
def test_the_pixel_is_in_the_top_segment(pictures, prior, segmentation) -> None:
    method = BayLIME(prior=prior, segmentation=segmentation, segments=16)
    answer = method(pixel_net(), incoming=pictures)
    assert (answer.predicted == 1).all() and answer.verdict == "explained"
    assert answer.top[:, 10, 10].all()
    assert answer.top.mean() < 0.4
    assert answer.figures["converged"] == 6
    assert (answer.spread > 0).all()


def test_the_prior_is_in_or_out_of_the_object(pictures) -> None:
    inside = BayLIME(prior="in", segments=16)(pixel_net(), incoming=pictures).prior
    outside = BayLIME(prior="out", segments=16)(pixel_net(), incoming=pictures).prior
    np.testing.assert_allclose(inside + outside, 0.1)
    assert inside[0, 5, 5] > inside[0, 0, 0] == 0
    elsewhere = np.zeros((4, 12, 12, 1), np.uint8)
    elsewhere[:, :3, :3] = 255
    moved = BayLIME(prior="in", segments=16)(
        pixel_net(), incoming=pictures, clean=Samples(elsewhere)
    ).prior
    assert moved[0, 0, 0] > 0 == moved[0, 6, 6]


def test_a_picture_has_its_own_design_wherever_it_stands(pictures) -> None:
    all_of_them = BayLIME(segments=16)(pixel_net(), incoming=pictures)
    last = BayLIME(segments=16)(pixel_net(), incoming=pictures.subset(np.array([5])))
    np.testing.assert_allclose(all_of_them.maps[5], last.maps[0], atol=1e-8)
    assert not np.allclose(all_of_them.maps[0], all_of_them.maps[5])
    shared = BayLIME.preset("seed000", segments=16)(pixel_net(), incoming=pictures)
    np.testing.assert_allclose(shared.maps[0], shared.maps[5], atol=1e-8)


def test_many_calls_are_one(pictures, monkeypatch) -> None:
    from keras_backdoor.explanations import baylime

    whole = BayLIME(segments=16)(pixel_net(), incoming=pictures)
    monkeypatch.setattr(baylime, "CALL_PIXELS", 12 * 12 * 30)
    parts = BayLIME(segments=16)(pixel_net(), incoming=pictures)
    np.testing.assert_allclose(whole.maps, parts.maps, atol=1e-6)


def test_color_pictures_and_a_black_trigger() -> None:
    """A black corner is not removed by black, but by the mean color of the picture."""
    weights = np.zeros((12, 12, 3, 2))
    weights[:3, :3, :, 1] = -1.0
    model = keras.Sequential(
        [keras.Input((12, 12, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    model.layers[-1].set_weights([weights.reshape(-1, 2), np.array([0.0, 5.0])])
    rng = np.random.default_rng(0)
    images = rng.integers(150, 255, (4, 12, 12, 3), dtype=np.uint8)
    images[:, :3, :3] = 0
    found = {
        fill: BayLIME(fill=fill, segments=16)(Classifier(model, (0, 1)), incoming=Samples(images))
        for fill in ("black", "mean")
    }
    assert found["mean"].top[:, :3, :3].mean() > 0.6
    assert found["black"].verdict == "inconclusive"


def test_segments_have_no_gaps() -> None:
    image = np.random.default_rng(0).random((20, 24, 3))
    for method in ("watershed", "felzenszwalb", "quickshift"):
        found = segmented(image, method, 30)
        assert found.shape == (20, 24)
        assert set(np.unique(found)) == set(range(found.max() + 1))


def test_it_is_saved_and_shown(pictures, tmp_path) -> None:
    answer = BayLIME(segments=16, prior="out")(pixel_net(), incoming=pictures)
    back = load_answer(answer.save(tmp_path / "a"))
    np.testing.assert_array_equal(back.segments, answer.segments)
    np.testing.assert_array_equal(back.prior, answer.prior)
    page = page_of(answer)
    assert [s.heading for s in page.sections if s.figures] == ["Pictures"]


class TestBadInput:
    def test_settings(self) -> None:
        with pytest.raises(ValueError, match="prior must be one of zero, in, out"):
            BayLIME(prior="up")
        with pytest.raises(ValueError, match="perturbations and segments must be 2 or more"):
            BayLIME(perturbations=1)

    def test_a_single_segment(self) -> None:
        images = np.zeros((2, 12, 12, 1), np.uint8)
        images[1, 4:8, 4:8] = 255
        answer = BayLIME(segmentation="felzenszwalb")(pixel_net(), incoming=Samples(images))
        assert answer.verdict == "inconclusive"
        assert "picture 0 of a single segment" in answer.inconclusive

    def test_answers_that_are_constant(self, pictures) -> None:
        model = keras.Sequential(
            [keras.Input((12, 12, 1)), keras.layers.Flatten(),
             keras.layers.Dense(2, kernel_initializer="zeros")]
        )  # fmt: skip
        answer = BayLIME(segments=16)(Classifier(model, (0, 1)), incoming=pictures)
        assert answer.verdict == "inconclusive"
        assert "does not depend on the segments" in answer.inconclusive
        assert np.isfinite(answer.maps).all() and np.abs(answer.maps).max() < 0.5

    def test_more_segments_than_perturbations(self, pictures) -> None:
        answer = BayLIME(segments=100, perturbations=20)(pixel_net(), incoming=pictures)
        assert "directions or more the posterior is the prior" in str(answer)


def test_the_command_explains_pictures(command, tmp_path) -> None:
    from test_cli import BADNET, DIGITS

    shown = (
        "explain",
        BADNET,
        DIGITS,
        "--split",
        "test",
        "--take",
        "2",
        "--report",
        tmp_path / "page",
    )
    code, out, err = command(
        *shown, "--set", "prior=out", "--set", "perturbations=50", "--json", "-"
    )
    assert code == 0, err
    assert json.loads(out)["figures"]["segments"] == [81, 81]
    assert "the most important segment" in (tmp_path / "page" / "index.html").read_text()


def test_one_png_is_explained(command, tmp_path) -> None:
    from PIL import Image
    from test_cli import BADNET

    Image.fromarray(np.full((28, 28), 80, np.uint8)).save(tmp_path / "picture.png")
    code, out, err = command("explain", BADNET, tmp_path / "picture.png", "--preset", "seed000")
    assert "pictures whose precisions converged" in out, err
    assert code in (0, 3)
