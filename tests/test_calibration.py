"""Temperature scaling."""

import numpy as np
import pytest
from of_both import of_both

from sentiment_model.errors import QualityError
from sentiment_model.training.calibration import calibrated_loss, fit_combination, fit_temperature


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=3 * temperature, size=50_000).astype(np.float32)
    labels = generator.random(50_000) < 1 / (1 + np.exp(-logits / temperature))
    assert fit_temperature(of_both(logits), labels.astype(np.float32)) == pytest.approx(temperature, rel=0.03)


def test_no_other_temperature_has_a_smaller_loss() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(scale=4, size=5000)
    labels = (logits + generator.normal(scale=4, size=5000) > 0).astype(float)
    fitted = fit_temperature(of_both(logits), labels)

    def loss(temperature: float) -> float:
        return float(np.logaddexp(0, np.where(labels > 0.5, -logits, logits) / temperature).mean())

    best = min(loss(temperature) for temperature in np.geomspace(0.1, 10, 400))
    assert loss(fitted) == pytest.approx(best, abs=1e-5)


def test_separable_reviews_do_not_make_the_model_certain() -> None:
    labels = np.repeat([0.0, 1.0], 20)
    logits = np.where(labels > 0.5, 2.0, -2.0)
    probability = 1 / (1 + np.exp(-logits / fit_temperature(of_both(logits), labels)))
    assert probability.max() == pytest.approx(21 / 22, abs=1e-4)  # as sure as 20 of 20 allows (Laplace)


def test_a_model_that_is_wrong_throughout_is_told_to_be_unsure() -> None:
    labels = np.repeat([0.0, 1.0], 20)
    assert fit_temperature(of_both(np.where(labels > 0.5, -2.0, 2.0)), labels) > 50


@pytest.mark.parametrize("labels", [np.zeros(3), np.ones(3), np.zeros(0)])
def test_one_class_cannot_calibrate(labels: np.ndarray) -> None:
    with pytest.raises(QualityError, match="more than one class"):
        fit_temperature(of_both(np.zeros(len(labels))), labels)


def drawn(probabilities: np.ndarray) -> np.ndarray:
    """Draw a class from each row of probabilities."""
    chance = np.random.default_rng(2).random((len(probabilities), 1))
    return (chance > probabilities.cumsum(axis=1)).sum(axis=1).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities, shape (reviews, classes)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_what_made_the_labels_of_four_classes_is_found() -> None:
    generator = np.random.default_rng(3)
    logits = generator.normal(scale=3, size=(50_000, 4))
    labels = drawn(softmax(logits / 2))
    assert fit_temperature(logits, labels) == pytest.approx(2, rel=0.03)
    assert calibrated_loss(logits, labels) == pytest.approx(
        -np.log(softmax(logits / 2)[np.arange(len(labels)), labels.astype(int)]).mean(), abs=1e-3
    )
    others, shifts = generator.normal(scale=0.2, size=logits.shape), np.array([0.0, -0.5, 1.0, 2.0])
    labels = drawn(softmax((logits + 4 * others + shifts) / 2))
    temperature, scale, found = fit_combination(logits, others, labels)
    assert (temperature, scale) == pytest.approx((2, 4), rel=0.1)
    np.testing.assert_allclose(found, shifts, atol=0.15)


def test_three_classes_that_are_told_apart_do_not_make_the_model_certain() -> None:
    labels = np.repeat([0.0, 1.0, 2.0], 20)
    logits = 5 * np.eye(3)[labels.astype(int)]
    assert softmax(logits / fit_temperature(logits, labels)).max() == pytest.approx(21 / 23, abs=1e-3)
