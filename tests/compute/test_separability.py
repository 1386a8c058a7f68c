"""Linear separability against known cases and scikit-learn's ridge regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from uebench.compute.separability import MOST_IMAGES, REGULARISATION, measure_separability


def images(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(40, 200, (count, 3, 4, 4), generator=generator, dtype=torch.uint8)
    return pixels, torch.randint(0, 4, (count,), generator=generator)


def test_one_pattern_a_class_is_told_apart_and_random_noise_is_not() -> None:
    clean, labels = images(600)
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randint(-8, 9, (4, 3, 4, 4), generator=generator)
    class_wise = measure_separability(clean, (clean.int() + patterns[labels]).to(torch.uint8), labels)
    assert class_wise["separability_noise"] == 1
    random = torch.randint(-8, 9, clean.shape, generator=generator)
    noise = measure_separability(clean, (clean.int() + random).to(torch.uint8), labels)
    assert noise["separability_noise"] == pytest.approx(0.25, abs=0.12), "chance"
    strong = measure_separability(
        clean, (clean.int() // 8 + 12 * patterns[labels] + 100).clamp(0, 255).to(torch.uint8), labels
    )
    assert strong["separability_released"] == 1


def test_the_classifier_is_ridge_regression() -> None:
    clean, labels = images(300)
    released = (clean.int() + torch.randint(-8, 9, clean.shape)).to(torch.uint8)
    measured = measure_separability(clean, released, labels)["separability_released"]
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    values, targets = (released[order].double().flatten(1) / 255).numpy(), labels[order].numpy()
    centred = values - values[:240].mean(0)
    penalty = REGULARISATION * (centred[:240] ** 2).sum(1).mean()
    model = Ridge(alpha=penalty).fit(centred[:240], np.eye(4)[targets[:240]])
    assert measured == pytest.approx((model.predict(centred[240:]).argmax(1) == targets[240:]).mean())


def test_it_is_the_same_each_time_and_few_images_have_none() -> None:
    clean, labels = images(MOST_IMAGES + 100)
    released = (clean.int() + 1).to(torch.uint8)
    state = torch.get_rng_state()
    assert measure_separability(clean, released, labels) == measure_separability(clean, released, labels)
    assert torch.equal(torch.get_rng_state(), state), "no random number of the job is used"
    assert measure_separability(clean, clean, labels)["separability_noise"] is not None
    assert measure_separability(clean[:9], clean[:9], labels[:9]) == {
        "separability_noise": None,
        "separability_released": None,
    }
