"""The training loop: what a breaker may change and what it may not, and how training resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from uebench import Breaker, Recipe, Split, UserError, kit
from uebench.compute import networks, precision
from uebench.compute.networks import Classifier
from uebench.compute.optimisation import Training, learning_rate
from uebench.compute.train import TrainingOutcome, build_network, evaluate_network, train_network
from uebench.jobs.checkpoint import StoredProgress
from uebench.storage.store import Store
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
) -> tuple[nn.Module, TrainingOutcome]:
    net = network or build_network(SmallCNN(width=4), (3, 8, 8), 4, recipe.precision, torch.device("cpu"), seed=5)

    def report(step: int, count: int, loss: float | None) -> None:
        if step == dies_at:
            raise Broken

    progress = StoredProgress(store, "key", 9, report, every=0)
    progress.period = -1
    outcome = train_network(
        net,
        split(30, 0),
        lambda: split(20, 1),
        classes=4,
        recipe=recipe,
        chain=(breaker,),
        augment=lambda images: kit.crop_and_flip(images, 1),
        progress=progress,
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

        def attack(self, model: nn.Module, images: Tensor, targets: Tensor, progress: float) -> Tensor:
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


def test_adamw_broken_off_anywhere_ends_with_the_same_bits(store: Store) -> None:
    recipe = Recipe(steps=12, batch=8, evaluations=3, optimiser="adamw", lr=0.01)
    straight, curve = learn(store, NoBreaker(), recipe)
    assert not same_weights(straight, learn(store, NoBreaker())[0])
    for dies_at in (1, 5):
        with pytest.raises(Broken):
            learn(store, NoBreaker(), recipe, dies_at=dies_at)
        resumed, other = learn(store, NoBreaker(), recipe)
        assert same_weights(straight, resumed)
        assert curve == other


def test_adamw_takes_the_papers_steps_with_the_recipes_rate_momentum_and_decay() -> None:
    """Loshchilov and Hutter, ICLR 2019, algorithm 2."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double()
    weights = net[1].weight.detach().clone()
    recipe = Recipe(steps=10, lr=0.02, momentum=0.8, weight_decay=0.3, schedule="one-cycle", optimiser="adamw")
    training = Training(net, recipe, 6, seed=0)
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    for step in range(5):
        images, labels = torch.rand(6, 3, 2, 2, dtype=torch.float64), torch.arange(6) % 4
        x, bias = images.flatten(1), net[1].bias.detach().clone()
        slope = ((x @ weights.T + bias).softmax(1) - nn.functional.one_hot(labels, 4)).T @ x / 6
        training.step(step, images, labels)
        first, second = 0.8 * first + 0.2 * slope, 0.999 * second + 0.001 * slope**2
        unbiased, spread = first / (1 - 0.8 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        rate = learning_rate(recipe, step)
        weights = weights * (1 - rate * 0.3) - rate * unbiased / (spread.sqrt() + 1e-8)
        assert torch.allclose(net[1].weight, weights, atol=1e-10)


def test_adamw_refuses_a_momentum_of_one() -> None:
    with pytest.raises(UserError, match="momentum must be below 1 with adamw, not 1"):
        Recipe(optimiser="adamw", momentum=1)
    Recipe(momentum=1)


def test_a_bounded_gradient_keeps_its_way_and_one_below_the_bound_its_bits() -> None:
    images, labels = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4

    def step(clip: float) -> Tensor:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
        before = nn.utils.parameters_to_vector(net.parameters()).detach()
        recipe = Recipe(lr=0.5, momentum=0, weight_decay=0, schedule="constant", clip=clip)
        Training(net, recipe, 6, seed=0).step(0, images, labels)
        return (nn.utils.parameters_to_vector(net.parameters()).detach() - before) / 0.5

    free = step(0)
    assert torch.equal(step(2 * float(free.norm())), free)
    bound = float(free.norm()) / 10
    assert torch.allclose(step(bound), free / 10, atol=1e-6), "weights and biases together"


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_hidden_linear_layers_take_their_share_of_the_rate(optimiser: Literal["sgd", "adamw"]) -> None:
    images, labels = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4

    def way(share: float) -> dict[str, Tensor]:
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 5, 1, bias=False)
        net = nn.Sequential(conv, nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 4))
        before = {name: one.detach().clone() for name, one in net.named_parameters()}
        recipe = Recipe(lr=0.5, schedule="constant", optimiser=optimiser, hidden_lr=share)
        Training(net, recipe, 6, seed=0).step(0, images, labels)
        return {name: one.detach() - before[name] for name, one in net.named_parameters()}

    whole, tenth = way(1), way(0.1)
    assert all(one.any() for one in whole.values())
    for name, one in whole.items():
        assert torch.allclose(tenth[name], one / 10 if name.startswith("3.") else one, atol=1e-6), name


def test_an_attack_is_told_how_far_training_is_also_after_an_interruption(store: Store) -> None:
    class Clock(Breaker):
        name = "clock"

        def attack(self, model: nn.Module, images: Tensor, targets: Tensor, progress: float) -> Tensor:
            told.append(progress)
            return images

    told: list[float] = []
    with pytest.raises(Broken):
        learn(store, Clock(), dies_at=5)
    assert told == [step / 12 for step in range(5)]
    learn(store, Clock())
    assert told[5:] == [step / 12 for step in range(5, 12)]


def test_adversarial_training_updates_batch_statistics_once_a_step_from_attacked_images(store: Store) -> None:
    attacked: list[Tensor] = []

    class Spy(AdvLinf):
        name = "spy"

        def attack(self, model: nn.Module, images: Tensor, targets: Tensor, progress: float) -> Tensor:
            attacked.append(super().attack(model, images, targets, progress))
            return attacked[-1]

    net = build_network(SmallCNN(width=4), (3, 8, 8), 4, "fp32", torch.device("cpu"), seed=5)
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
    net = build_network(SmallCNN(width=4), (3, 8, 8), 4, "fp32", torch.device("cpu"), seed=5)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    test = split(1101, 1)
    confusion = evaluate_network(net, test, 4)
    assert confusion.sum(1).tolist() == torch.bincount(test.labels).tolist()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())


def test_a_loss_that_is_no_number_and_a_network_of_one_answer_are_flagged(store: Store) -> None:
    assert learn(store, NoBreaker(), Recipe(steps=6, batch=8, lr=1e30))[1].flags == ["diverged", "constant-class"]
    assert "diverged" not in learn(store, NoBreaker())[1].flags


def test_who_augments_gets_the_labels_in_one_hot_form_which_train_as_labels_do(store: Store) -> None:
    class Watching(Breaker):
        name = "watching"

        def augment(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            assert targets.dtype == torch.float32
            assert targets.shape == (8, 4)
            assert torch.equal(targets.sort(1).values, torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(8, 4))
            return images, targets

    hard, soft = learn(store, NoBreaker())[0], learn(store, Watching())[0]
    pairs = zip(hard.parameters(), soft.parameters(), strict=True)
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in pairs)


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_a_network_is_built_in_the_arithmetic_of_its_precision(precision: str, tf32: bool) -> None:
    build_network(SmallCNN(), (3, 8, 8), 4, precision, torch.device("cpu"), 0)
    assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is tf32


def test_bf16_is_close_to_fp32_and_gives_float32_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    body = SmallCNN(width=8).build((3, 8, 8), 4)
    images, host = torch.rand(32, 3, 8, 8), torch.device("cpu")
    exact = Classifier(body, "fp32", host).eval()(images)
    monkeypatch.setattr(networks, "has_bf16", lambda device: True)
    rough = Classifier(body, "bf16", host).eval()(images)
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert torch.allclose(exact, rough, atol=0.02)
    monkeypatch.setattr(networks, "has_bf16", lambda device: False)
    assert torch.equal(exact, Classifier(body, "bf16", host).eval()(images))


@pytest.mark.parametrize(("features", "has"), [("avx512_bf16 amx", True), ("asimd bf16", True), ("avx512f", False)])
def test_a_processor_has_bf16_when_it_lists_it(
    features: str, has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t: sse {features} avx2\n")
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
    assert precision.processor_has_bf16.__wrapped__() is has
