"""A recipe's fields beyond plain gradient descent, each against torch's own or a slow program of the same rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.compute.test_train import Broken, learn, same_weights
from uebench import Rate, Recipe, Source, Target, UserError, kit
from uebench.authoring.check import check_component
from uebench.components.errors import ContractError
from uebench.compute.optimisation import Training, learning_rate
from uebench.compute.train import Views, build_network
from uebench.storage.store import Store
from uebench_plugins.breakers.adv_linf import AdvLinf
from uebench_plugins.breakers.none import NoBreaker
from uebench_plugins.datasets.cifar import Cifar10
from uebench_plugins.datasets.digits import Digits
from uebench_plugins.datasets.folder import Folder
from uebench_plugins.targets.smallcnn import SmallCNN

HOST = torch.device("cpu")
BATCHES = [(torch.rand(6, 3, 4, 4, dtype=torch.float64), torch.arange(6) % 4) for _ in range(12)]


class Shifted(Target):
    """A linear layer whose bias takes another rate, and batch norm, so that there are buffers."""

    name = "shifted"

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, classes))

    def rates(self, network: nn.Module) -> Mapping[str, Rate]:
        return {"2.bias": Rate(lr=64, weight_decay=1 / 64)}


def network() -> nn.Module:
    return build_network(Shifted(), (3, 4, 4), 4, "fp32", HOST, 0).double()


def trained(recipe: Recipe, steps: int) -> nn.Module:
    net = network()
    training = Training(net, recipe, 6, seed=0)
    for step in range(steps):
        training.step(step, *BATCHES[step])
    return net


def slowly(recipe: Recipe, steps: int, share: float, decay: float) -> nn.Module:
    """Train by rules written out here: smoothed targets, Nesterov's momentum, own rates, look-ahead (Jordan 2024)."""
    net = network()
    weights = dict(net.named_parameters())
    momenta = {name: torch.zeros_like(value) for name, value in weights.items()}
    averages = {name: value.clone() for name, value in net.state_dict().items() if value.is_floating_point()}
    for step in range(steps):
        images, labels = BATCHES[step]
        smoothed = (1 - recipe.label_smoothing) * nn.functional.one_hot(labels, 4).double() + recipe.label_smoothing / 4
        loss = -(smoothed * net(images).log_softmax(1)).sum(1).mean()
        gradients = torch.autograd.grad(loss, list(weights.values()))
        with torch.no_grad():
            for (name, value), gradient in zip(weights.items(), gradients, strict=True):
                own = name == "network.2.bias"
                gradient = gradient + recipe.weight_decay * (decay if own else 1) * value
                momenta[name] = recipe.momentum * momenta[name] + gradient
                way = gradient + recipe.momentum * momenta[name] if recipe.nesterov else momenta[name]
                value -= learning_rate(recipe, step) * (share if own else 1) * way
            done = step + 1
            if recipe.lookahead and done % recipe.lookahead == 0:
                kept = 0.95**5 * (done / recipe.steps) ** 3
                for name, value in net.state_dict().items():
                    if name in averages:
                        averages[name] = kept * averages[name] + (1 - kept) * value
                        value.copy_(averages[name])
            if recipe.lookahead and done == recipe.steps:
                for name, value in averages.items():
                    net.state_dict()[name].copy_(value)
    return net


FIELDS: list[dict[str, Any]] = [
    {"nesterov": True},
    {"label_smoothing": 0.2},
    {"lookahead": 3},
    {"lookahead": 5},
    {"schedule": "triangle"},
    {"nesterov": True, "label_smoothing": 0.2, "lookahead": 2, "schedule": "triangle", "momentum": 0.85},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_each_field_trains_as_the_slow_program_does(fields: dict[str, Any]) -> None:
    recipe = Recipe(**{"steps": 12, "batch": 6, "lr": 0.05, "weight_decay": 0.01, "schedule": "constant", **fields})
    ours, slow = trained(recipe, 12).state_dict(), slowly(recipe, 12, 64, 1 / 64).state_dict()
    assert all(torch.allclose(ours[name], value, rtol=1e-10, atol=1e-12) for name, value in slow.items())
    plain = Recipe(steps=12, batch=6, lr=0.05, weight_decay=0.01, schedule="constant")
    other = trained(plain, 12).state_dict()
    assert not torch.allclose(other["network.2.weight"], ours["network.2.weight"], rtol=1e-4), (
        "the field does something"
    )


def test_rates_are_those_of_the_target() -> None:
    recipe = Recipe(steps=12, batch=6, lr=0.05, weight_decay=0.01, schedule="constant")
    ours = trained(recipe, 1).state_dict()
    assert torch.allclose(ours["network.2.bias"], slowly(recipe, 1, 64, 1 / 64).state_dict()["network.2.bias"])
    assert not torch.allclose(ours["network.2.bias"], slowly(recipe, 1, 1, 1).state_dict()["network.2.bias"])


def test_nesterov_is_torchs_to_the_bit() -> None:
    recipe = Recipe(steps=12, batch=6, lr=0.05, schedule="constant", nesterov=True)
    net = build_network(SmallCNN(width=4), (3, 4, 4), 4, "fp32", HOST, 0)
    twin = build_network(SmallCNN(width=4), (3, 4, 4), 4, "fp32", HOST, 0)
    training = Training(net, recipe, 6, seed=0)
    theirs = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    for step, (images, labels) in enumerate(BATCHES):
        training.step(step, images.float(), labels)
        theirs.zero_grad()
        nn.functional.cross_entropy(twin(images.float()), labels).backward()
        theirs.step()
    assert same_weights(net, twin)


def test_the_loss_on_record_is_the_plain_one_whatever_the_smoothing() -> None:
    images, labels = BATCHES[0]
    net = network()
    plain = nn.functional.cross_entropy(net(images), labels)
    recipe = Recipe(steps=12, batch=6, label_smoothing=0.3)
    loss, _ = Training(network(), recipe, 6, seed=0).step(0, images, labels)
    assert torch.allclose(loss, plain)


def test_a_triangle_rises_from_a_fifth_and_falls_to_seven_hundredths() -> None:
    recipe = Recipe(steps=1000, lr=2, schedule="triangle")
    rates = [learning_rate(recipe, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.4)
    assert rates[230] == max(rates) == pytest.approx(2)
    assert rates[999] == pytest.approx(0.14, abs=0.003)
    slow = np.interp(range(1000), [0, 230, 1000], [0.4, 2, 0.14])
    assert np.allclose(rates, slow)


@pytest.mark.parametrize(
    "fields", [{"lookahead": 5}, {"crop": "reflect", "flip": "alternating"}, {"nesterov": True}], ids=str
)
def test_training_broken_off_anywhere_ends_with_the_same_bits(fields: dict[str, Any], store: Store) -> None:
    recipe = Recipe(steps=12, batch=8, evaluations=3, **fields)
    straight, curve = learn(store, NoBreaker(), recipe)
    for dies_at in (1, 5, 11):
        with pytest.raises(Broken):
            learn(store, NoBreaker(), recipe, dies_at=dies_at)
        resumed, other = learn(store, NoBreaker(), recipe)
        assert same_weights(straight, resumed)
        assert curve == other


def views(recipe: Recipe, mirrors: bool, count: int) -> Views:
    return Views(recipe, count, lambda images: images, mirrors, 3, HOST)


def test_a_reflected_crop_is_numpys_padding_cut_out() -> None:
    images = torch.rand(40, 3, 6, 5)
    recipe = Recipe(crop="reflect", shift=2)
    index = torch.arange(40)
    seen = views(recipe, True, 40)(images, index, 0)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    cuts = set()
    for image, wide in zip(seen.numpy(), padded, strict=True):
        found = [
            (top, left, mirrored)
            for top in range(5)
            for left in range(5)
            for mirrored in (False, True)
            if np.array_equal(image, _cut(wide, top, left, mirrored))
        ]
        assert found
        cuts.add(found[0])
    assert len({cut[:2] for cut in cuts}) > 10
    assert {cut[2] for cut in cuts} == {False, True}


def _cut(wide: np.ndarray[Any, Any], top: int, left: int, mirrored: bool) -> np.ndarray[Any, Any]:
    cut = wide[:, top : top + 6, left : left + 5]
    return cut[:, :, ::-1] if mirrored else cut


def test_alternating_flips_mirror_each_image_every_other_epoch() -> None:
    images = torch.rand(50, 1, 4, 4)
    recipe = Recipe(crop="reflect", shift=0, flip="alternating")
    make, index = views(recipe, True, 50), torch.randperm(50)
    epochs = [make(images[index], index, epoch) for epoch in range(4)]
    assert torch.equal(epochs[0], epochs[2])
    assert torch.equal(epochs[1], epochs[3])
    assert torch.equal(epochs[0], epochs[1].flip(3))
    mirrored = (epochs[0] != images[index]).flatten(1).any(1)
    assert 10 < int(mirrored.sum()) < 40
    again = make(images, torch.arange(50), 0)
    assert torch.equal(again[index], epochs[0]), "by image, not by place in the batch"


@pytest.mark.parametrize("flip", ["random", "alternating"])
def test_images_that_must_not_be_mirrored_are_not(flip: Any) -> None:
    images = torch.rand(50, 1, 4, 4)
    recipe = Recipe(crop="reflect", shift=0, flip=flip)
    assert torch.equal(views(recipe, False, 50)(images, torch.arange(50), 1), images)


@pytest.mark.parametrize(
    ("source", "mirrors"), [(Cifar10(), True), (Digits(), False), (Folder(path="x", flip=False), False)], ids=str
)
def test_a_data_set_says_whether_mirrored_images_keep_their_class(source: Source, mirrors: bool) -> None:
    assert source.mirrors() is mirrors


def test_what_does_not_go_together_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="nesterov needs optimiser=sgd and a momentum above 0"):
        Recipe(nesterov=True, momentum=0)
    with pytest.raises(UserError, match="nesterov needs optimiser=sgd"):
        Recipe(nesterov=True, optimiser="adamw")
    with pytest.raises(UserError, match="shift must be smaller than the image side of 8 pixels, not 8"):
        learn(store, NoBreaker(), Recipe(steps=2, batch=4, crop="reflect", shift=8))


def test_a_rate_of_an_unknown_parameter_is_a_broken_contract() -> None:
    class Misnamed(Shifted):
        name = "misnamed"
        paper = "none"

        def rates(self, network: nn.Module) -> Mapping[str, Rate]:
            return {"bias": Rate(lr=2)}

    message = "rates names 'bias', which is not a parameter of its network; the closest name is '2.bias'"
    with pytest.raises(ContractError, match=message):
        build_network(Misnamed(), (3, 4, 4), 4, "fp32", HOST, 0)


def test_one_step_training_that_is_learned_by_heart_is_flagged_and_on_record(store: Store) -> None:
    class Blind(AdvLinf):
        """Trains on the images as they are, and so resists nothing."""

        name = "blind"

        def attack(self, model: nn.Module, images: Tensor, targets: Tensor, progress: float) -> Tensor:
            return images

    recipe = Recipe(steps=60, batch=8, evaluations=3)
    _, outcome = learn(store, Blind(radius=0.4), recipe)
    assert "catastrophic-overfitting" in outcome.flags
    last = outcome.curve[-1]
    assert last.attacked_accuracy is not None
    assert last.train_accuracy - last.attacked_accuracy > 0.2
    _, sound = learn(store, AdvLinf(radius=0.01), recipe)
    assert "catastrophic-overfitting" not in sound.flags
    assert sound.curve[-1].attacked_accuracy is not None
    assert learn(store, NoBreaker(), recipe)[1].curve[-1].attacked_accuracy is None


def test_watching_the_attack_changes_no_weight(store: Store) -> None:
    class Unwatched(AdvLinf):
        name = "unwatched"

        def attacked_accuracy(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor | None:
            return None

    watched, unwatched = (learn(store, cls(radius=0.1, steps=2))[0] for cls in (AdvLinf, Unwatched))
    assert same_weights(watched, unwatched)


def test_the_curve_has_the_mean_loss_between_its_points(store: Store) -> None:
    told: list[float] = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build_network(SmallCNN(width=4), (3, 8, 8), 4, "fp32", HOST, seed=5)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.inner(images)
            return logits

    recipe = Recipe(steps=12, batch=8, evaluations=3)
    net = Net()
    original = Training.step

    def step(self: Training, number: int, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        loss, logits = original(self, number, images, targets)
        told.append(float(loss))
        return loss, logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "step", step)
        _, outcome = learn(store, NoBreaker(), recipe, network=net)
    for number, point in enumerate(outcome.curve):
        assert point.loss == pytest.approx(np.mean(told[4 * number : 4 * number + 4]), rel=1e-6)


def test_the_contract_finds_a_share_that_is_none_and_a_rate_that_is_of_nothing() -> None:
    class Odd(NoBreaker):
        name = "odd"
        paper = "none"

        def attacked_accuracy(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor | None:
            return torch.tensor(3.0)

    class Misnamed(Shifted):
        name = "misnamed"
        paper = "none"

        def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

        def rates(self, network: nn.Module) -> Mapping[str, Rate]:
            return {"bias": Rate()}

    broken = {finding.rule for finding in check_component("breaker", Odd()) if not finding.kept}
    assert "attacked_accuracy is a share" in broken
    assert kit.scale(2)(torch.ones(1)).item() == 2
