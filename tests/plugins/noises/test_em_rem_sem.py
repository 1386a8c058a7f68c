"""EM, REM and SEM, compared step by step with references in double precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.plugins.noises.reference_noises import (
    ADV_RADIUS,
    RADIUS,
    HostContext,
    RecordingNetwork,
    data,
    surrogate,
    views,
)
from uebench import Recipe, UserError, kit
from uebench.components.registry import registry
from uebench.compute.seeds import derive_seed
from uebench.compute.train import build_network
from uebench.planning.suite_file import read_suite
from uebench_plugins.noises.em import EM
from uebench_plugins.noises.em_classwise import EMClasswise
from uebench_plugins.noises.em_rem import EMREM
from uebench_plugins.noises.rem import REM
from uebench_plugins.noises.sem import SEM
from uebench_plugins.targets.smallcnn import SmallCNN


def reference_noise(net: nn.Module, images: Tensor, labels: Tensor, noise: REM, adversarial: bool) -> Tensor:
    """Return REM's noise step (paper, equation 5), with a matrix for the augmentation and the chain rule in full."""
    net.eval()

    def gradient_at(point: Tensor) -> Tensor:
        point = point.detach().requires_grad_(True)
        return torch.autograd.grad(F.cross_entropy(net(point), labels), point)[0]

    delta = torch.empty_like(images).uniform_(-RADIUS, RADIUS)
    for _ in range(noise.noise_steps):
        total = torch.zeros_like(images)
        for _ in range(noise.draws):
            protected = images + delta
            view, matrix = views(protected.clamp(0, 1))
            start = torch.empty_like(view).uniform_(-ADV_RADIUS, ADV_RADIUS)
            point = (view + start).clamp(0, 1)
            for _ in range(noise.adv_steps if adversarial else 0):
                stepped = point + noise.adv_step * ADV_RADIUS * gradient_at(point).sign()
                point = (view + (stepped - view).clamp(-ADV_RADIUS, ADV_RADIUS)).clamp(0, 1)
            gradient = torch.einsum("bij,bci->bcj", matrix, gradient_at(point).flatten(2)).view_as(images)
            total += gradient * ((protected >= 0) & (protected <= 1))
        delta = (delta - noise.noise_step * RADIUS * total.sign()).clamp(-RADIUS, RADIUS)
    net.train()
    return delta


SETTINGS = {
    "radius": RADIUS,
    "adv_radius": ADV_RADIUS,
    "surrogate": SmallCNN(width=4),
    "draws": 3,
    "noise_steps": 4,
    "noise_step": 0.4,
    "adv_steps": 2,
    "adv_step": 0.5,
    "steps": 5,
    "batch": 8,
}


@pytest.mark.parametrize(("cls", "adversarial"), [(REM, True), (SEM, False)])
def test_the_noise_step_equals_the_papers(cls: type[REM], adversarial: bool) -> None:
    noise, net, (images, labels) = cls(**SETTINGS), surrogate(), data()
    torch.manual_seed(11)
    with kit.frozen(net):
        computed = noise.optimise_noise(net, images, labels, HostContext())
    torch.manual_seed(11)
    expected = reference_noise(net, images, labels, noise, adversarial)
    assert torch.allclose(computed, expected, atol=1e-12)


def noise_of(noise: REM, seed: int = 11) -> Tensor:
    """Return the noise of one noise step for the shared images and network."""
    net, (images, labels) = surrogate(), data()
    torch.manual_seed(seed)
    with kit.frozen(net):
        return noise.optimise_noise(net, images, labels, HostContext())


def test_sem_equals_rem_with_a_random_noise_perturbation() -> None:
    assert {name for name in vars(SEM) if not name.startswith("__")} == {"name", "paper", "noise_perturbation"}
    random = {**SETTINGS, "noise_perturbation": "random"}
    assert torch.equal(noise_of(SEM(**SETTINGS)), noise_of(REM(**random)))
    assert torch.equal(noise_of(SEM(**SETTINGS, noise_perturbation="adversarial")), noise_of(REM(**SETTINGS)))
    assert not torch.equal(noise_of(SEM(**SETTINGS)), noise_of(REM(**SETTINGS)))
    images, labels = data()
    noises = [noise.make(images.float(), labels, HostContext()) for noise in (SEM(**SETTINGS), REM(**random))]
    assert torch.equal(*noises), "the surrogate learns under the same attack"


def test_sem_differs_from_em_with_augmentation() -> None:
    plain = {**SETTINGS, "noise_perturbation": "none"}
    assert not torch.equal(noise_of(SEM(**SETTINGS)), noise_of(REM(**plain)))
    assert torch.equal(noise_of(REM(**plain)), noise_of(REM(**{**SETTINGS, "adv_radius": 0.0})))


@pytest.mark.parametrize("surrogate_side", ["none", "adversarial"])
@pytest.mark.parametrize("noise_side", ["none", "adversarial", "random"])
def test_parameters_give_the_whole_ablation_grid(noise_side: str, surrogate_side: str) -> None:
    """A step needs adv_steps + 1 passes with an attack, and one without; random perturbations stay in the ball."""
    images, labels = data()
    net = RecordingNetwork(SmallCNN(width=4).build((3, 6, 6), 4))
    noise = REM(**SETTINGS, noise_perturbation=noise_side, surrogate_perturbation=surrogate_side, eot=False)
    noise.make(images.float(), labels, HostContext(net))
    attack = {"none": 0, "random": 0, "adversarial": 2}
    noise_passes, surrogate_passes = 4 * (attack[noise_side] + 1), attack[surrogate_side] + 1
    assert len(net.attacked) + len(net.trained_on) == 5 * (noise_passes + surrogate_passes) + 2 * noise_passes
    distances = nearest(net.trained_on[0], images.float())
    limit = RADIUS + (0 if surrogate_side == "none" else ADV_RADIUS)
    assert bool((distances <= limit + 1e-6).all())
    assert bool((distances > RADIUS + 1e-6).any()) is (surrogate_side != "none")


@pytest.mark.parametrize(("side", "index"), [("noise_attack", 0), ("surrogate_attack", 1)])
def test_each_side_has_a_separate_attack(side: str, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[list[str]] = [[], []]

    def adversary(attack: str, network: nn.Module, x: Tensor, y: Tensor, **options: float) -> Tensor:
        is_training = any(weight.requires_grad for weight in network.parameters())
        used[is_training].append(attack)
        assert options == {"radius": ADV_RADIUS, "steps": 2, "step": pytest.approx(0.5 * ADV_RADIUS)}
        return x

    monkeypatch.setattr(kit, "adversary", adversary)
    images, labels = data()
    REM(**SETTINGS, **{side: "apgd"}).make(images.float(), labels, HostContext())
    assert set(used[index]) == {"apgd"}
    assert set(used[1 - index]) == {"pgd"}


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_a_random_perturbation_is_drawn_for_each_pixel_in_the_ball(distribution: str) -> None:
    images = torch.full((64, 3, 6, 6), 0.5)
    noise = REM(**SETTINGS, distribution=distribution)
    drawn = noise.perturb(nn.Identity(), images, torch.zeros(64), "random", "pgd") - images
    assert float(drawn.abs().max()) <= ADV_RADIUS + 1e-6
    on_the_border = float((drawn.abs() > ADV_RADIUS - 1e-6).float().mean())
    expected = {"uniform": 0.0, "gaussian": 2 * 0.1587}[
        distribution
    ]  # share of a normal distribution beyond one standard deviation
    assert on_the_border == pytest.approx(expected, abs=0.02)
    assert len(drawn.unique()) > 64 * 3 * 6 * 6 * 0.5
    second = noise.perturb(nn.Identity(), images, torch.zeros(64), "random", "pgd") - images
    assert not torch.equal(drawn, second)


def test_without_expectation_over_transformation_images_are_not_augmented() -> None:
    class NoAugmentation(HostContext):
        def augment(self, images: Tensor) -> Tensor:
            raise AssertionError("augmented")

    images, labels = data()
    net = RecordingNetwork(SmallCNN(width=4).build((3, 6, 6), 4))
    REM(**SETTINGS, eot=False).make(images.float(), labels, NoAugmentation(net))
    assert len(net.trained_on) + len(net.attacked) == 5 * (4 * 3 + 3) + 2 * 4 * 3


def test_each_draw_has_a_new_augmentation_and_perturbation_for_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """All images of the batch are equal, so equal views or perturbations would give equal points."""
    points: list[Tensor] = []
    original = REM.perturb

    def perturb(self: REM, network: nn.Module, views: Tensor, *arguments: Any) -> Tensor:
        points.append(views)
        points.append(original(self, network, views, *arguments))
        return points[-1]

    monkeypatch.setattr(REM, "perturb", perturb)
    images, labels = data(1)
    net = surrogate()
    with kit.frozen(net):
        SEM(**{**SETTINGS, "noise_steps": 1}).noise_gradient(
            net,
            images.repeat(32, 1, 1, 1),
            torch.zeros(32, 3, 6, 6, dtype=torch.float64),
            labels.repeat(32),
            HostContext(),
        )
        drawn, perturbed = points
        assert len(drawn.unique(dim=0)) > 8, "the views of a batch are equal"
        assert len(perturbed.unique(dim=0)) == 32
        points.clear()
        SEM(**{**SETTINGS, "noise_steps": 1}).optimise_noise(net, images, labels, HostContext())
    assert len(torch.stack(points[1::2]).unique(dim=0)) == SETTINGS["draws"]


def test_draws_in_one_pass_equal_separate_draws() -> None:
    """Without augmentation and perturbation the gradients are equal; otherwise every draw has a different view."""

    class NoAugmentation(HostContext):
        def augment(self, images: Tensor) -> Tensor:
            return images.flip(3)

    images, labels = data()
    net, noise, delta = surrogate(), REM(**{**SETTINGS, "noise_perturbation": "none"}), torch.zeros_like(images)
    with kit.frozen(net):
        single, triple = (noise.noise_gradient(net, images, delta, labels, NoAugmentation(), draws) for draws in (1, 3))
        assert torch.allclose(3 * single, triple, rtol=1e-10)
    points: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, inputs: points.append(inputs[0].detach()))
    with kit.frozen(net):
        SEM(**SETTINGS).noise_gradient(net, images[:1], delta[:1], labels[:1], HostContext(), 32)
    assert [len(point.unique(dim=0)) for point in points] == [32]


def test_on_a_gpu_several_draws_share_a_pass_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = torch.zeros(128, 3, 32, 32), torch.zeros(1, 3, 1024, 1024)
    assert kit.parts(3, small) == [1, 1, 1]
    monkeypatch.setattr(Tensor, "is_cuda", True)
    assert kit.parts(5, small) == [5]
    assert kit.parts(20, small) == [8, 8, 4]
    assert kit.parts(2, large) == [1, 1]


def test_the_surrogate_learns_from_rounded_noise_unless_rounded_is_false(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = data()
    for rounded in (True, False):
        net = RecordingNetwork(SmallCNN(width=4).build((3, 6, 6), 4))
        settings = {**SETTINGS, "steps": 1, "batch": 12, "adv_radius": 0.0, "eot": False, "rounded": rounded}
        REM(**settings).make(images.float().mul(255).round().div(255), labels, HostContext(net))
        steps = net.trained_on[0] * 255
        assert torch.allclose(steps, steps.round(), atol=1e-3) is rounded


def test_without_an_attack_radius_rem_and_sem_are_the_same() -> None:
    net, (images, labels) = surrogate(), data()
    settings = {**SETTINGS, "adv_radius": 0.0}
    noises = []
    for cls in (REM, SEM):
        torch.manual_seed(11)
        with kit.frozen(net):
            noises.append(cls(**settings).optimise_noise(net, images, labels, HostContext()))
    assert torch.equal(*noises)


def test_the_gradient_is_computed_at_the_attacked_point_and_not_through_the_attack() -> None:
    noise, net, (images, labels) = REM(**{**SETTINGS, "draws": 1, "noise_steps": 1}), surrogate().eval(), data()
    images = images.clamp(0.2, 0.8)
    delta = torch.full_like(images, 0.01)
    torch.manual_seed(4)
    gradient = noise.noise_gradient(net, images, delta, labels, HostContext())
    torch.manual_seed(4)
    view, matrix = views(images + delta)
    point = noise.perturb(net, view, labels, "adversarial", "pgd").requires_grad_(True)
    (point_gradient,) = torch.autograd.grad(F.cross_entropy(net(point), labels, reduction="sum"), point)
    expected = torch.einsum("bij,bci->bcj", matrix, point_gradient.flatten(2)).view_as(images)
    assert torch.allclose(gradient, expected, atol=1e-12)


PASSES = {  # passes per batch of the published settings: all iterations and the last noise step over all batches
    ("cifar10", "em"): 58_900,
    ("cifar10", "em-rem"): 58_900,
    ("cifar10", "rem:adv_radius=0"): 274_500,
    ("cifar10", "rem:eot=false"): 647_900,
    ("cifar10", "rem"): 3_019_500,
    ("cifar10", "sem"): 324_500,
    ("cifar100", "sem"): 324_500,
    ("imagenet100", "em"): 31_070,
    ("imagenet100", "rem"): 922_240,
    ("imagenet100", "sem"): 136_280,
}


@pytest.mark.parametrize(("name", "text"), PASSES)
def test_passes_equal_those_of_the_papers_settings(name: str, text: str) -> None:
    """Count passes for one and two iterations and for more batches, and extrapolate to the suite's settings."""
    noise: Any = registry().build("noise", text, read_suite(name).defaults)
    images, labels = data()
    counts = []
    for steps, count in ((1, 4), (2, 4), (1, 12)):
        net = RecordingNetwork(SmallCNN(width=1).build((3, 6, 6), 4))
        small = replace(noise, surrogate=SmallCNN(width=1), steps=steps, batch=4)
        small.make(images[:count].float(), labels[:count], HostContext(net))
        assert len(net.trained_on) == steps
        counts.append(len(net.trained_on) + len(net.attacked))
    per_step, per_batch = counts[1] - counts[0], (counts[2] - counts[0]) // 2
    assert counts[0] == per_step + per_batch
    batches = 1010 if name == "imagenet100" else 390
    assert noise.steps * per_step + batches * per_batch == PASSES[name, text]
    assert noise.passes(128 * batches) == {noise.surrogate: 128 * PASSES[name, text]}, (
        "the number that a dry run prints"
    )


@pytest.mark.parametrize(
    ("name", "text", "settings"),
    [
        ("cifar10", "em", {"noise_step": 1 / 5, "noise_steps": 10}),
        ("cifar10", "tap", {"noise_step": 1 / 125, "noise_steps": 250}),
        ("cifar10", "ntga-pgd", {"noise_step": 1.1 / 10, "noise_steps": 10, "block": 4000}),
        ("cifar10", "rem", {"noise_step": 1 / 5, "noise_steps": 10, "adv_step": 1 / 5, "adv_steps": 10, "draws": 5}),
        ("cifar10", "sem", {"noise_step": 1 / 5, "noise_steps": 10, "adv_step": 1 / 5, "adv_steps": 10, "draws": 5}),
        ("imagenet100", "em", {"noise_step": 1 / 4, "noise_steps": 7, "steps": 3000}),
        ("imagenet100", "tap", {"noise_step": 1 / 50, "noise_steps": 100}),
        ("imagenet100", "ntga-pgd", {"noise_step": 1.1 / 8, "noise_steps": 8, "block": 100}),
        ("imagenet100", "rem", {"noise_step": 1 / 4, "noise_steps": 7, "adv_step": 1 / 4, "adv_steps": 7, "draws": 4}),
    ],
)
def test_the_suites_have_the_published_settings(name: str, text: str, settings: dict[str, float]) -> None:
    """REM's table 5; for ImageNet the released scripts where they differ."""
    noise = registry().build("noise", text, read_suite(name).defaults)
    assert {key: getattr(noise, key) for key in settings} == pytest.approx(settings)
    assert getattr(noise, "radius", None) == pytest.approx(8 / 255)
    if text in ("rem", "sem"):
        assert (noise.adv_radius, noise.batch, noise.lr) == pytest.approx((4 / 255, 128, 0.1))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["demo", "cifar10-small"])
def test_attacks_of_rem_and_sem_in_small_suites_move_as_far_as_the_breakers(name: str) -> None:
    defaults = read_suite(name).defaults
    breaker = registry().build("breaker", "adv-linf", defaults)
    for text in ("rem", "sem"):
        noise = registry().build("noise", text, defaults)
        noise_distance, breaker_distance = noise.adv_steps * noise.adv_step, breaker.steps * breaker.step  # type: ignore[attr-defined]
        assert noise_distance == pytest.approx(breaker_distance, rel=0.01), "in radii"


@pytest.mark.parametrize("cls", [REM, SEM])
def test_rem_and_sem_train_their_surrogate_on_attacked_images(cls: type[REM], monkeypatch: pytest.MonkeyPatch) -> None:
    attacked: list[Tensor] = []

    def adversary(*arguments: Any, **options: Any) -> Tensor:
        attacked.append(original(*arguments, **options))
        return attacked[-1]

    original = kit.adversary
    monkeypatch.setattr(kit, "adversary", adversary)
    images, labels = data()
    net = RecordingNetwork(SmallCNN(width=4).build((3, 6, 6), 4))
    cls(**{**SETTINGS, "steps": 1}).make(images.float(), labels, HostContext(net))
    assert sum(torch.equal(net.trained_on[0], batch) for batch in attacked) == 1


@pytest.mark.parametrize("augment", [True, False])
def test_em_optimises_on_the_stored_image_and_trains_the_surrogate_on_augmented_views(augment: bool) -> None:
    images, labels = data()
    images = images.float()
    net = RecordingNetwork(SmallCNN(width=4).build((3, 6, 6), 4))
    noise = EM(radius=RADIUS, surrogate=SmallCNN(width=4), noise_steps=4, steps=1, batch=12, augment=augment)
    noise.make(images, labels, HostContext(net))
    for batch in net.attacked:
        assert bool((nearest(batch, images) <= RADIUS + 1e-6).all())
    distances = nearest(net.trained_on[0], images)
    assert bool((distances > 0).all())
    assert bool((distances <= RADIUS + 1e-6).all()) is not augment


def nearest(batch: Tensor, images: Tensor) -> Tensor:
    """Return the L-inf distance from each image of a batch to the nearest clean one."""
    return torch.stack([(images - image).abs().amax((1, 2, 3)).min() for image in batch])


def test_shuffling_keeps_noise_and_image_together_and_covers_all_images() -> None:
    """Every image has a different grey value, which identifies the noise made for it."""
    torch.manual_seed(0)
    count = 21
    images = (torch.arange(count).float() / (2 * count) + 0.2)[:, None, None, None].expand(count, 3, 6, 6).clone()
    labels = torch.arange(count) % 4
    noise_by_image: dict[int, Tensor] = {}

    def make(x: Tensor, y: Tensor, previous: Tensor) -> Tensor:
        noise = torch.empty_like(x).uniform_(-0.01, 0.01)
        for image, value in zip(x, kit.to_steps(noise, RADIUS), strict=True):
            noise_by_image[round(float((image[0, 0, 0] - 0.2) * 2 * count))] = value
        return noise

    delta = kit.alternate(
        images,
        labels,
        HostContext(),
        network=SmallCNN(width=4).build((3, 6, 6), 4),
        recipe=Recipe(steps=7, batch=8),
        radius=RADIUS,
        make=make,
        view=lambda x, y: x,
    )
    assert sorted(noise_by_image) == list(range(count))
    assert all(torch.equal(delta[index], noise_by_image[index]) for index in range(count))


def test_em_lowers_the_loss_on_the_released_image() -> None:
    images, labels = data(24)
    images = images.float()
    net = build_network(SmallCNN(width=8), (3, 6, 6), 4, "fp32", torch.device("cpu"), 3)
    noise = EM(radius=RADIUS, surrogate=SmallCNN(width=8), steps=30, batch=8)
    delta = noise.make(images, labels, HostContext(net))
    with kit.frozen(net):
        before, after = (
            F.cross_entropy(net(x), labels) for x in (images, kit.to_float(kit.to_bytes(images + delta / 255)))
        )
    assert float(after) < float(before)


def test_surrogate_and_target_start_from_different_weights() -> None:
    target = SmallCNN(width=4)
    surrogate_network, target_network = (
        build_network(target, (3, 6, 6), 4, "fp32", torch.device("cpu"), derive_seed(0, role))
        for role in ("surrogate", "train")
    )
    pairs = list(zip(surrogate_network.parameters(), target_network.parameters(), strict=True))
    assert not any(torch.equal(first, second) for first, second in pairs if first.ndim == 4)


def test_em_starts_from_random_or_from_the_previous_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Tensor | None] = []

    def pgd(network: nn.Module, x: Tensor, y: Tensor, *, start: Tensor | None, **options: Any) -> Tensor:
        starts.append(None if start is None else (start - x).clone())
        return x + 3 / 255

    monkeypatch.setattr(kit, "pgd", pgd)
    images, labels = data()
    for warm_start in (False, True):
        starts.clear()
        noise = EM(radius=RADIUS, surrogate=SmallCNN(width=4), steps=2, batch=12, warm_start=warm_start)
        noise.make(images.float(), labels, HostContext())
        assert [start is not None for start in starts] == [warm_start] * 3
    first, second, last = starts
    assert float(first.abs().max()) == 0
    assert torch.allclose(second, torch.full_like(second, 3 / 255), atol=1e-6)
    assert torch.allclose(last, second, atol=1e-6)


def test_one_sided_noise_is_the_positive_part_of_the_noise() -> None:
    images, labels = data()
    settings = {"radius": RADIUS, "surrogate": SmallCNN(width=4), "steps": 2, "batch": 8}
    full, positive = (
        EM(**settings, one_sided=one_sided).make(images.float(), labels, HostContext()) for one_sided in (False, True)
    )
    assert int(full.min()) < 0
    assert torch.equal(positive, full.clamp(min=0))


def test_em_rem_optimises_on_views_and_stores_the_noise_for_the_image() -> None:
    """A view differs from all images by more than the radius; the surrogate learns from this view plus its noise."""
    images, labels = data()
    images = images.float()
    net = RecordingNetwork(SmallCNN(width=4).build((3, 6, 6), 4))
    drawn: list[Tensor] = []

    class Recording(HostContext):
        def augment(self, images: Tensor) -> Tensor:
            drawn.append(super().augment(images))
            return drawn[-1]

    noise = EMREM(radius=RADIUS, surrogate=SmallCNN(width=4), noise_steps=4, steps=1, batch=12)
    delta = noise.make(images, labels, Recording(net))
    views = drawn[1:]  # the first is drawn for its shape
    assert len(views) == 2
    assert bool((nearest(net.trained_on[0], views[0]) <= RADIUS + 1e-6).all())
    assert bool((nearest(views[0], images) > RADIUS).any())
    for batch in net.attacked[-4:]:
        assert bool((nearest(batch, views[1]) <= RADIUS + 1e-6).all())
    assert delta.shape == images.shape
    assert 0 < int(delta.abs().max()) <= RADIUS * 255


def test_em_rem_refuses_views_of_another_size() -> None:
    class Smaller(HostContext):
        def augment(self, images: Tensor) -> Tensor:
            return images[..., :4, :4]

    images, labels = data()
    with pytest.raises(UserError, match=r"em-rem: augmented views have shape \(3, 4, 4\), images \(3, 6, 6\)"):
        EMREM(surrogate=SmallCNN(width=4), steps=1).make(images.float(), labels, Smaller())


def test_class_wise_noise_becomes_the_mean_of_the_results_of_its_images() -> None:
    net, (images, labels) = surrogate(), data()
    keep = labels < 3  # a class that is not in the batch keeps its noise
    images, labels = images[keep], labels[keep]
    noise = EMClasswise(radius=RADIUS, surrogate=SmallCNN(width=4), noise_step=0.5)
    patterns = torch.zeros(4, 3, 6, 6, dtype=torch.float64).uniform_(-0.08, 0.08)
    before = patterns.clone()
    net.eval()
    results: dict[int, list[Tensor]] = {}
    for image, label in zip(images, labels.tolist(), strict=True):
        point = (image + before[label]).clamp(0, 1)[None].requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(point), torch.tensor([label])), point)
        results.setdefault(label, []).append((before[label] - 0.5 * RADIUS * gradient[0].sign()).clamp(-RADIUS, RADIUS))
    noise.descend(net, images, labels, patterns)
    for label, noises in results.items():
        assert torch.allclose(patterns[label], torch.stack(noises).mean(0), atol=1e-12)
    assert torch.equal(patterns[3], before[3])


def test_class_wise_noise_is_equal_within_a_class_and_uses_the_same_share_of_each() -> None:
    images, labels = data(40)
    noise = EMClasswise(radius=RADIUS, surrogate=SmallCNN(width=4), rounds=2, learn=2, batch=8, part=0.3)
    chosen = noise.choose_images(labels, HostContext())
    assert torch.bincount(labels[chosen]).tolist() == [3] * 4
    assert len(set(chosen.tolist())) == 12
    delta = noise.make(images.float(), labels, HostContext())
    assert all(len(delta[labels == label].unique(dim=0)) == 1 for label in range(4))
    assert len(delta.unique(dim=0)) == 4


def test_class_wise_rounds_end_when_the_surrogate_error_is_low() -> None:
    images, labels = data(40)
    steps: list[int] = []

    class Counting(HostContext):
        def steps(self, count: int) -> Iterator[int]:
            for step in super().steps(count):
                steps.append(step)
                yield step

    noise = EMClasswise(radius=RADIUS, surrogate=SmallCNN(width=4), rounds=50, learn=4, batch=40, part=1.0)
    replace(noise, stop_error=1.0).make(images.float(), labels, Counting())
    assert len(steps) == 5, "one round of four training steps and one batch"
    steps.clear()
    noise.make(images.float(), labels, Counting())
    assert 5 < len(steps) < 250
    assert len(steps) % 5 == 0
