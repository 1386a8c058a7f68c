"""The noises are the methods of the papers: each step against a reference written out by hand in double precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.plugins.noises.reference_noises import ADV_RADIUS, RADIUS, Sink, Watched, data, surrogate, views
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


def reference(net: nn.Module, images: Tensor, labels: Tensor, noise: REM, adversarial: bool) -> Tensor:
    """REM's noise step (paper, equation 5) with an explicit augmentation matrix and the chain rule by hand."""
    net.eval()

    def slope_at(point: Tensor) -> Tensor:
        point = point.detach().requires_grad_(True)
        return torch.autograd.grad(F.cross_entropy(net(point), labels), point)[0]

    delta = torch.empty_like(images).uniform_(-RADIUS, RADIUS)
    for _ in range(noise.noise_steps):
        total = torch.zeros_like(images)
        for _ in range(noise.draws):
            protected = images + delta
            seen, matrix = views(protected.clamp(0, 1))
            start = torch.empty_like(seen).uniform_(-ADV_RADIUS, ADV_RADIUS)
            point = (seen + start).clamp(0, 1)
            for _ in range(noise.adv_steps if adversarial else 0):
                moved = point + noise.adv_step * ADV_RADIUS * slope_at(point).sign()
                point = (seen + (moved - seen).clamp(-ADV_RADIUS, ADV_RADIUS)).clamp(0, 1)
            back = torch.einsum("bij,bci->bcj", matrix, slope_at(point).flatten(2)).view_as(images)
            total += back * ((protected >= 0) & (protected <= 1))
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
def test_the_noise_step_is_the_papers(cls: type[REM], adversarial: bool) -> None:
    noise, net, (images, labels) = cls(**SETTINGS), surrogate(), data()
    torch.manual_seed(11)
    with kit.frozen(net):
        found = noise.optimise_noise(net, images, labels, Sink())
    torch.manual_seed(11)
    expected = reference(net, images, labels, noise, adversarial)
    assert torch.allclose(found, expected, atol=1e-12)


def noise_of(noise: REM, seed: int = 11) -> Tensor:
    """Return the noise step's outcome for the shared images and network."""
    net, (images, labels) = surrogate(), data()
    torch.manual_seed(seed)
    with kit.frozen(net):
        return noise.optimise_noise(net, images, labels, Sink())


def test_sem_is_rem_with_its_adversary_replaced_and_nothing_else() -> None:
    assert {name for name in vars(SEM) if not name.startswith("__")} == {"name", "paper", "noise_perturbation"}
    swapped = {**SETTINGS, "noise_perturbation": "random"}
    assert torch.equal(noise_of(SEM(**SETTINGS)), noise_of(REM(**swapped)))
    assert torch.equal(noise_of(SEM(**SETTINGS, noise_perturbation="adversarial")), noise_of(REM(**SETTINGS)))
    assert not torch.equal(noise_of(SEM(**SETTINGS)), noise_of(REM(**SETTINGS)))
    images, labels = data()
    made = [one.make(images.float(), labels, Sink()) for one in (SEM(**SETTINGS), REM(**swapped))]
    assert torch.equal(*made), "the surrogate learns under the same attack"


def test_sem_differs_from_em_with_augmentation_in_both_of_its_steps() -> None:
    plain = {**SETTINGS, "noise_perturbation": "none"}
    assert not torch.equal(noise_of(SEM(**SETTINGS)), noise_of(REM(**plain)))
    assert torch.equal(noise_of(REM(**plain)), noise_of(REM(**{**SETTINGS, "adv_radius": 0.0})))


@pytest.mark.parametrize("surrogate_side", ["none", "adversarial"])
@pytest.mark.parametrize("noise_side", ["none", "adversarial", "random"])
def test_the_ablation_grid_is_reached_by_parameters_alone(noise_side: str, surrogate_side: str) -> None:
    """Ka + 1 passes where an attack is made, one otherwise, on either side; random points lie in the ball."""
    images, labels = data()
    net = Watched(SmallCNN(width=4).build((3, 6, 6), 4))
    noise = REM(**SETTINGS, noise_perturbation=noise_side, surrogate_perturbation=surrogate_side, eot=False)
    noise.make(images.float(), labels, Sink(net))
    attack = {"none": 0, "random": 0, "adversarial": 2}
    made, learned = 4 * (attack[noise_side] + 1), attack[surrogate_side] + 1
    assert len(net.attacked) + len(net.trained_on) == 5 * (made + learned) + 2 * made
    shown = nearest(net.trained_on[0], images.float())
    reach = RADIUS + (0 if surrogate_side == "none" else ADV_RADIUS)
    assert bool((shown <= reach + 1e-6).all())
    assert bool((shown > RADIUS + 1e-6).any()) is (surrogate_side != "none")


@pytest.mark.parametrize(("side", "index"), [("noise_attack", 0), ("surrogate_attack", 1)])
def test_attacks_are_chosen_for_either_side_apart(side: str, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[list[str]] = [[], []]

    def adversary(attack: str, network: nn.Module, x: Tensor, y: Tensor, **options: float) -> Tensor:
        learning = any(weight.requires_grad for weight in network.parameters())
        used[learning].append(attack)
        assert options == {"radius": ADV_RADIUS, "steps": 2, "step": pytest.approx(0.5 * ADV_RADIUS)}
        return x

    monkeypatch.setattr(kit, "adversary", adversary)
    images, labels = data()
    REM(**SETTINGS, **{side: "apgd"}).make(images.float(), labels, Sink())
    assert set(used[index]) == {"apgd"}
    assert set(used[1 - index]) == {"pgd"}


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_a_random_perturbation_is_one_draw_per_pixel_in_the_ball(distribution: str) -> None:
    images = torch.full((64, 3, 6, 6), 0.5)
    noise = REM(**SETTINGS, distribution=distribution)
    drawn = noise.perturb(nn.Identity(), images, torch.zeros(64), "random", "pgd") - images
    assert float(drawn.abs().max()) <= ADV_RADIUS + 1e-6
    on_the_border = float((drawn.abs() > ADV_RADIUS - 1e-6).float().mean())
    expected = {"uniform": 0.0, "gaussian": 2 * 0.1587}[distribution]  # the share of a normal beyond one deviation
    assert on_the_border == pytest.approx(expected, abs=0.02)
    assert len(drawn.unique()) > 64 * 3 * 6 * 6 * 0.5
    again = noise.perturb(nn.Identity(), images, torch.zeros(64), "random", "pgd") - images
    assert not torch.equal(drawn, again)


def test_without_expectation_over_transformation_the_image_is_taken_as_it_is_and_once() -> None:
    class Still(Sink):
        def augment(self, images: Tensor) -> Tensor:
            raise AssertionError("augmented")

    images, labels = data()
    net = Watched(SmallCNN(width=4).build((3, 6, 6), 4))
    REM(**SETTINGS, eot=False).make(images.float(), labels, Still(net))
    assert len(net.trained_on) + len(net.attacked) == 5 * (4 * 3 + 3) + 2 * 4 * 3


def test_each_draw_augments_every_image_in_its_own_way_and_perturbs_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image throughout the batch: were its views drawn once, or the attack used again, points would coincide."""
    points: list[Tensor] = []
    whole = REM.perturb

    def perturb(self: REM, network: nn.Module, seen: Tensor, *rest: Any) -> Tensor:
        points.append(seen)
        points.append(whole(self, network, seen, *rest))
        return points[-1]

    monkeypatch.setattr(REM, "perturb", perturb)
    images, labels = data(1)
    net = surrogate()
    with kit.frozen(net):
        SEM(**{**SETTINGS, "noise_steps": 1}).noise_gradient(
            net, images.repeat(32, 1, 1, 1), torch.zeros(32, 3, 6, 6, dtype=torch.float64), labels.repeat(32), Sink()
        )
        seen, perturbed = points
        assert len(seen.unique(dim=0)) > 8, "one view for the whole batch"
        assert len(perturbed.unique(dim=0)) == 32
        points.clear()
        SEM(**{**SETTINGS, "noise_steps": 1}).optimise_noise(net, images, labels, Sink())
    assert len(torch.stack(points[1::2]).unique(dim=0)) == SETTINGS["draws"]


def test_draws_made_in_one_pass_are_as_many_draws_made_one_by_one() -> None:
    """With one view and no perturbation the gradients are equal; else each draw has its own view and perturbation."""

    class Still(Sink):
        def augment(self, images: Tensor) -> Tensor:
            return images.flip(3)

    images, labels = data()
    net, noise, delta = surrogate(), REM(**{**SETTINGS, "noise_perturbation": "none"}), torch.zeros_like(images)
    with kit.frozen(net):
        one, three = (noise.noise_gradient(net, images, delta, labels, Still(), draws) for draws in (1, 3))
        assert torch.allclose(3 * one, three, rtol=1e-10)
    points: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, inputs: points.append(inputs[0].detach()))
    with kit.frozen(net):
        SEM(**SETTINGS).noise_gradient(net, images[:1], delta[:1], labels[:1], Sink(), 32)
    assert [len(one.unique(dim=0)) for one in points] == [32]


def test_on_a_gpu_draws_are_made_together_as_far_as_they_fill_it(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = torch.zeros(128, 3, 32, 32), torch.zeros(1, 3, 1024, 1024)
    assert kit.parts(3, small) == [1, 1, 1]
    monkeypatch.setattr(Tensor, "is_cuda", True)
    assert kit.parts(5, small) == [5]
    assert kit.parts(20, small) == [8, 8, 4]
    assert kit.parts(2, large) == [1, 1]


def test_the_surrogate_learns_from_the_noise_as_it_is_rounded_or_as_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = data()
    for rounded in (True, False):
        net = Watched(SmallCNN(width=4).build((3, 6, 6), 4))
        settings = {**SETTINGS, "steps": 1, "batch": 12, "adv_radius": 0.0, "eot": False, "rounded": rounded}
        REM(**settings).make(images.float().mul(255).round().div(255), labels, Sink(net))
        steps = net.trained_on[0] * 255
        assert torch.allclose(steps, steps.round(), atol=1e-3) is rounded


def test_without_an_attack_radius_rem_and_sem_are_the_same() -> None:
    net, (images, labels) = surrogate(), data()
    settings = {**SETTINGS, "adv_radius": 0.0}
    found = []
    for cls in (REM, SEM):
        torch.manual_seed(11)
        with kit.frozen(net):
            found.append(cls(**settings).optimise_noise(net, images, labels, Sink()))
    assert torch.equal(*found)


def test_the_gradient_is_taken_at_the_attacked_point_of_each_draw_and_not_through_the_attack() -> None:
    noise, net, (images, labels) = REM(**{**SETTINGS, "draws": 1, "noise_steps": 1}), surrogate().eval(), data()
    images = images.clamp(0.2, 0.8)
    delta = torch.full_like(images, 0.01)
    torch.manual_seed(4)
    found = noise.noise_gradient(net, images, delta, labels, Sink())
    torch.manual_seed(4)
    seen, matrix = views(images + delta)
    point = noise.perturb(net, seen, labels, "adversarial", "pgd").requires_grad_(True)
    (slope,) = torch.autograd.grad(F.cross_entropy(net(point), labels, reduction="sum"), point)
    expected = torch.einsum("bij,bci->bcj", matrix, slope.flatten(2)).view_as(images)
    assert torch.allclose(found, expected, atol=1e-12)


PASSES = {  # batch passes of the published settings, iterations and last pass over the code's number of batches
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
def test_passes_are_those_of_the_papers_settings(name: str, text: str) -> None:
    """Counted on two iterations and three batches of the last pass, with the suite's settings for all per batch."""
    noise: Any = registry().build("noise", text, read_suite(name).defaults)
    images, labels = data()
    counts = []
    for steps, count in ((1, 4), (2, 4), (1, 12)):
        net = Watched(SmallCNN(width=1).build((3, 6, 6), 4))
        small = replace(noise, surrogate=SmallCNN(width=1), steps=steps, batch=4)
        small.make(images[:count].float(), labels[:count], Sink(net))
        assert len(net.trained_on) == steps
        counts.append(len(net.trained_on) + len(net.attacked))
    per_step, per_batch = counts[1] - counts[0], (counts[2] - counts[0]) // 2
    assert counts[0] == per_step + per_batch
    batches = 1010 if name == "imagenet100" else 390
    assert noise.steps * per_step + batches * per_batch == PASSES[name, text]
    assert noise.passes(128 * batches) == {noise.surrogate: 128 * PASSES[name, text]}, "what a dry run says"


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
def test_the_suites_settings_are_the_published_ones(name: str, text: str, settings: dict[str, float]) -> None:
    """REM's table 5; for ImageNet the released scripts where they differ."""
    noise = registry().build("noise", text, read_suite(name).defaults)
    assert {key: getattr(noise, key) for key in settings} == pytest.approx(settings)
    assert getattr(noise, "radius", None) == pytest.approx(8 / 255)
    if text in ("rem", "sem"):
        assert (noise.adv_radius, noise.batch, noise.lr) == pytest.approx((4 / 255, 128, 0.1))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["demo", "cifar10-small"])
def test_the_attack_in_rem_and_sem_of_a_shortened_suite_reaches_as_far_as_its_breaker(name: str) -> None:
    defaults = read_suite(name).defaults
    breaker = registry().build("breaker", "adv-linf", defaults)
    for text in ("rem", "sem"):
        noise = registry().build("noise", text, defaults)
        ours, theirs = noise.adv_steps * noise.adv_step, breaker.steps * breaker.step  # type: ignore[attr-defined]
        assert ours == pytest.approx(theirs, rel=0.01), "in radii"


@pytest.mark.parametrize("cls", [REM, SEM])
def test_rem_and_sem_train_their_surrogate_on_attacked_images(cls: type[REM], monkeypatch: pytest.MonkeyPatch) -> None:
    attacked: list[Tensor] = []

    def adversary(*arguments: Any, **options: Any) -> Tensor:
        attacked.append(plain(*arguments, **options))
        return attacked[-1]

    plain = kit.adversary
    monkeypatch.setattr(kit, "adversary", adversary)
    images, labels = data()
    net = Watched(SmallCNN(width=4).build((3, 6, 6), 4))
    cls(**{**SETTINGS, "steps": 1}).make(images.float(), labels, Sink(net))
    assert sum(torch.equal(net.trained_on[0], one) for one in attacked) == 1


@pytest.mark.parametrize("augment", [True, False])
def test_em_makes_its_noise_in_the_images_own_frame_and_shows_the_surrogate_augmented_views(augment: bool) -> None:
    images, labels = data()
    images = images.float()
    net = Watched(SmallCNN(width=4).build((3, 6, 6), 4))
    noise = EM(radius=RADIUS, surrogate=SmallCNN(width=4), noise_steps=4, steps=1, batch=12, augment=augment)
    noise.make(images, labels, Sink(net))
    for batch in net.attacked:
        assert bool((nearest(batch, images) <= RADIUS + 1e-6).all())
    shown = nearest(net.trained_on[0], images)
    assert bool((shown > 0).all())
    assert bool((shown <= RADIUS + 1e-6).all()) is not augment


def nearest(batch: Tensor, images: Tensor) -> Tensor:
    """Return the L-inf distance from each image of a batch to the nearest clean one."""
    return torch.stack([(images - one).abs().amax((1, 2, 3)).min() for one in batch])


def test_noise_stays_with_its_image_under_shuffling_and_no_image_is_left_out() -> None:
    """Every image has a grey value of its own, by which the noise made for it is noted."""
    torch.manual_seed(0)
    count = 21
    images = (torch.arange(count).float() / (2 * count) + 0.2)[:, None, None, None].expand(count, 3, 6, 6).clone()
    labels = torch.arange(count) % 4
    placed: dict[int, Tensor] = {}

    def make(x: Tensor, y: Tensor, old: Tensor) -> Tensor:
        fresh = torch.empty_like(x).uniform_(-0.01, 0.01)
        for image, value in zip(x, kit.to_steps(fresh, RADIUS), strict=True):
            placed[round(float((image[0, 0, 0] - 0.2) * 2 * count))] = value
        return fresh

    delta = kit.alternate(
        images,
        labels,
        Sink(),
        network=SmallCNN(width=4).build((3, 6, 6), 4),
        recipe=Recipe(steps=7, batch=8),
        radius=RADIUS,
        make=make,
        view=lambda x, y: x,
    )
    assert sorted(placed) == list(range(count))
    assert all(torch.equal(delta[index], placed[index]) for index in range(count))


def test_em_lowers_the_loss_on_the_released_image() -> None:
    images, labels = data(24)
    images = images.float()
    net = build_network(SmallCNN(width=8), (3, 6, 6), 4, "fp32", torch.device("cpu"), 3)
    noise = EM(radius=RADIUS, surrogate=SmallCNN(width=8), steps=30, batch=8)
    delta = noise.make(images, labels, Sink(net))
    with kit.frozen(net):
        before, after = (
            F.cross_entropy(net(x), labels) for x in (images, kit.to_float(kit.to_bytes(images + delta / 255)))
        )
    assert float(after) < float(before)


def test_surrogate_and_target_start_from_different_weights() -> None:
    target = SmallCNN(width=4)
    ours, theirs = (
        build_network(target, (3, 6, 6), 4, "fp32", torch.device("cpu"), derive_seed(0, role))
        for role in ("surrogate", "train")
    )
    pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
    assert not any(torch.equal(one, other) for one, other in pairs if one.ndim == 4)


def test_em_starts_afresh_or_from_the_last_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Tensor | None] = []

    def pgd(network: nn.Module, x: Tensor, y: Tensor, *, start: Tensor | None, **options: Any) -> Tensor:
        starts.append(None if start is None else (start - x).clone())
        return x + 3 / 255

    monkeypatch.setattr(kit, "pgd", pgd)
    images, labels = data()
    for warm in (False, True):
        starts.clear()
        noise = EM(radius=RADIUS, surrogate=SmallCNN(width=4), steps=2, batch=12, warm_start=warm)
        noise.make(images.float(), labels, Sink())
        assert [one is not None for one in starts] == [warm] * 3
    first, second, last = starts
    assert float(first.abs().max()) == 0
    assert torch.allclose(second, torch.full_like(second, 3 / 255), atol=1e-6)
    assert torch.allclose(last, second, atol=1e-6)


def test_one_sided_noise_is_the_positive_part_of_the_other() -> None:
    images, labels = data()
    settings = {"radius": RADIUS, "surrogate": SmallCNN(width=4), "steps": 2, "batch": 8}
    whole, half = (EM(**settings, one_sided=one).make(images.float(), labels, Sink()) for one in (False, True))
    assert int(whole.min()) < 0
    assert torch.equal(half, whole.clamp(min=0))


def test_em_rem_makes_its_noise_on_views_and_stores_it_for_the_image() -> None:
    """A fresh view is within the radius of no image; the surrogate learns from that very view with its noise."""
    images, labels = data()
    images = images.float()
    net = Watched(SmallCNN(width=4).build((3, 6, 6), 4))
    seen: list[Tensor] = []

    class Seeing(Sink):
        def augment(self, images: Tensor) -> Tensor:
            seen.append(super().augment(images))
            return seen[-1]

    noise = EMREM(radius=RADIUS, surrogate=SmallCNN(width=4), noise_steps=4, steps=1, batch=12)
    delta = noise.make(images, labels, Seeing(net))
    views = seen[1:]  # the first is a look at the shape
    assert len(views) == 2
    assert bool((nearest(net.trained_on[0], views[0]) <= RADIUS + 1e-6).all())
    assert bool((nearest(views[0], images) > RADIUS).any())
    for batch in net.attacked[-4:]:
        assert bool((nearest(batch, views[1]) <= RADIUS + 1e-6).all())
    assert delta.shape == images.shape
    assert 0 < int(delta.abs().max()) <= RADIUS * 255


def test_em_rem_refuses_views_of_another_size() -> None:
    class Smaller(Sink):
        def augment(self, images: Tensor) -> Tensor:
            return images[..., :4, :4]

    images, labels = data()
    with pytest.raises(UserError, match=r"em-rem: augmented views have shape \(3, 4, 4\), images \(3, 6, 6\)"):
        EMREM(surrogate=SmallCNN(width=4), steps=1).make(images.float(), labels, Smaller())


def test_class_wise_noise_moves_by_the_mean_step_of_the_images_of_a_class() -> None:
    net, (images, labels) = surrogate(), data()
    keep = labels < 3  # a class that is not in the batch keeps its noise
    images, labels = images[keep], labels[keep]
    noise = EMClasswise(radius=RADIUS, surrogate=SmallCNN(width=4), noise_step=0.5)
    patterns = torch.zeros(4, 3, 6, 6, dtype=torch.float64).uniform_(-0.08, 0.08)
    before = patterns.clone()
    net.eval()
    moved: dict[int, list[Tensor]] = {}
    for image, label in zip(images, labels.tolist(), strict=True):
        point = (image + before[label]).clamp(0, 1)[None].requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(net(point), torch.tensor([label])), point)
        moved.setdefault(label, []).append((before[label] - 0.5 * RADIUS * slope[0].sign()).clamp(-RADIUS, RADIUS))
    noise.descend(net, images, labels, patterns)
    for label, noises in moved.items():
        assert torch.allclose(patterns[label], torch.stack(noises).mean(0), atol=1e-12)
    assert torch.equal(patterns[3], before[3])


def test_class_wise_noise_is_one_per_class_and_uses_the_same_share_of_each() -> None:
    images, labels = data(40)
    noise = EMClasswise(radius=RADIUS, surrogate=SmallCNN(width=4), rounds=2, learn=2, batch=8, part=0.3)
    chosen = noise.choose_images(labels, Sink())
    assert torch.bincount(labels[chosen]).tolist() == [3] * 4
    assert len(set(chosen.tolist())) == 12
    delta = noise.make(images.float(), labels, Sink())
    assert all(len(delta[labels == label].unique(dim=0)) == 1 for label in range(4))
    assert len(delta.unique(dim=0)) == 4


def test_class_wise_rounds_end_when_the_surrogate_has_learned() -> None:
    images, labels = data(40)
    steps: list[int] = []

    class Counting(Sink):
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
