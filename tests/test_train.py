"""The training loop: what a breaker may change and what it may not, and how training resumes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from uebench import Breaker, Recipe, Split, kit
from uebench.journal import StoredJournal
from uebench.store import Store
from uebench.train import Classifier, Outcome, build, evaluate, train
from uebench_plugins.breakers.adv_linf import AdvLinf
from uebench_plugins.breakers.none import NoBreaker
from uebench_plugins.targets.smallcnn import SmallCNN

RECIPE = Recipe(steps=12, batch=8, evaluations=3)


class Broken(Exception):
    """The process dies."""


def split(count: int, seed: int) -> Split:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    images = torch.randint(0, 100, (count, 3, 8, 8), generator=draw) + 40 * labels[:, None, None, None]
    return Split(images.to(torch.uint8), labels)


def learn(
    store: Store,
    breaker: Breaker,
    recipe: Recipe = RECIPE,
    dies_at: int | None = None,
    network: nn.Module | None = None,
) -> tuple[nn.Module, Outcome]:
    net = network or build(SmallCNN(width=4), (3, 8, 8), 4, recipe.precision, torch.device("cpu"), seed=5)

    def report(step: int, count: int, loss: float | None) -> None:
        if step == dies_at:
            raise Broken

    journal = StoredJournal(store, "key", 9, report, every=0)
    journal.period = -1
    outcome = train(
        net,
        split(30, 0),
        lambda: split(20, 1),
        classes=4,
        recipe=recipe,
        chain=(breaker,),
        augment=lambda images: kit.crop_and_flip(images, 1),
        journal=journal,
        seed=9,
    )
    store.forget("key")
    return net, outcome


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == twin and torch.equal(value, copy) for (name, value), (twin, copy) in pairs)


@pytest.mark.parametrize("idle", [AdvLinf(radius=0), AdvLinf(steps=0)])
def test_an_attack_of_radius_zero_is_plain_training_to_the_bit(store: Store, idle: Breaker) -> None:
    (plain, curve), (adversarial, other) = learn(store, NoBreaker()), learn(store, idle)
    assert same_weights(plain, adversarial)
    assert curve == other
    assert not same_weights(plain, learn(store, AdvLinf(radius=0.1))[0])


def test_breakers_see_the_same_batches_and_views(store: Store) -> None:
    class Watching(Breaker):
        name = "watching"

        def augment(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(images.clone())
            return images, targets

        def attack(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
            torch.rand(draws)  # however much randomness an attack uses up
            return images

    views, seen, draws = [], list[Tensor](), 0
    for draws in (1, 1000):  # noqa: B007  read by the attack
        seen.clear()
        learn(store, Watching())
        views.append(torch.stack(seen))
    assert torch.equal(*views)


def test_training_broken_off_anywhere_ends_with_the_same_bits(store: Store) -> None:
    straight, curve = learn(store, AdvLinf(radius=0.1, steps=2))
    for dies_at in (1, 4, 5, 11):
        with pytest.raises(Broken):
            learn(store, AdvLinf(radius=0.1, steps=2), dies_at=dies_at)
        resumed, other = learn(store, AdvLinf(radius=0.1, steps=2))
        assert same_weights(straight, resumed)
        assert curve == other


def test_adversarial_training_updates_batch_statistics_once_a_step_from_attacked_images(store: Store) -> None:
    attacked: list[Tensor] = []

    class Spy(AdvLinf):
        name = "spy"

        def attack(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
            attacked.append(super().attack(model, images, targets))
            return attacked[-1]

    net = build(SmallCNN(width=4), (3, 8, 8), 4, "fp32", torch.device("cpu"), seed=5)
    norm = next(module for module in net.modules() if isinstance(module, nn.BatchNorm2d))
    inputs: list[Tensor] = []
    net.register_forward_pre_hook(lambda module, given: inputs.append(given[0].clone()) if module.training else None)
    learn(store, Spy(radius=0.1, steps=2), network=net)
    assert int(norm.num_batches_tracked) == RECIPE.steps
    assert all(torch.equal(one, other) for one, other in zip(inputs, attacked, strict=True))


def test_the_curve_ends_with_the_last_step_and_matches_a_count_by_hand(store: Store) -> None:
    net, outcome = learn(store, NoBreaker())
    assert [step for step, *_ in outcome.curve] == [4, 8, 12]
    test = split(20, 1)
    with kit.frozen(net):
        right = (net(kit.to_float(test.images)).argmax(1) == test.labels).float().mean()
    assert outcome.curve[-1][1] == pytest.approx(float(right))


def test_more_evaluations_than_steps_is_one_a_step(store: Store) -> None:
    _, outcome = learn(store, NoBreaker(), Recipe(steps=3, batch=8, evaluations=10))
    assert [step for step, *_ in outcome.curve] == [1, 2, 3]


def test_evaluation_counts_every_image_once_and_changes_nothing() -> None:
    net = build(SmallCNN(width=4), (3, 8, 8), 4, "fp32", torch.device("cpu"), seed=5)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    test = split(1101, 1)
    confusion = evaluate(net, test, 4)
    assert confusion.sum(1).tolist() == torch.bincount(test.labels).tolist()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())


def test_a_loss_that_is_no_number_and_a_network_of_one_answer_are_flagged(store: Store) -> None:
    assert learn(store, NoBreaker(), Recipe(steps=6, batch=8, lr=1e30))[1].flags == ["diverged", "constant-class"]
    assert "diverged" not in learn(store, NoBreaker())[1].flags


def test_soft_targets_train(store: Store) -> None:
    class Smooth(Breaker):
        name = "smooth"

        def augment(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            return images, nn.functional.one_hot(targets, 4).float()

    hard, soft = learn(store, NoBreaker())[0], learn(store, Smooth())[0]
    pairs = zip(hard.parameters(), soft.parameters(), strict=True)
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in pairs)


def test_bf16_is_close_to_fp32_and_gives_float32_logits() -> None:
    torch.manual_seed(0)
    body = SmallCNN(width=8).build((3, 8, 8), 4)
    images = torch.rand(32, 3, 8, 8)
    exact, rough = Classifier(body, "fp32").eval()(images), Classifier(body, "bf16").eval()(images)
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert torch.allclose(exact, rough, atol=0.02)
