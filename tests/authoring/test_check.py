"""The contract check finds what is wrong: components that break one rule each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import TINY
from uebench import Breaker, Budget, Choice, Context, Dataset, Noise, Source, Split, Target, UserError, parameter
from uebench.authoring import check
from uebench.components.registry import PluginProblem, registry
from uebench.planning.suite_file import read_suite
from uebench_plugins.breakers.adv_linf import AdvLinf
from uebench_plugins.breakers.none import NoBreaker


def broken(kind: str, component: Noise | Breaker | Target | Source) -> list[str]:
    """Return the rules that a component does not keep, but for being importable and documented."""
    usual = {"says what it is", "names its source", "can be sent to a worker"}
    return [one.rule for one in check.check_component(kind, component) if not one.kept and one.rule not in usual]


@pytest.mark.parametrize("name", ["em", "rem", "sem"])
def test_long_noises_are_interrupted_and_resumed(name: str) -> None:
    noise = registry().build("noise", name, read_suite(str(TINY)).defaults)
    assert "resumes to the same bytes" in [finding.rule for finding in check.check_component("noise", noise)]


def test_a_noise_that_changes_its_inputs() -> None:
    class Changes(Noise):
        name = "changes"

        def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
            labels.zero_()
            return torch.zeros_like(images)

    assert broken("noise", Changes()) == ["leaves its inputs alone"]


def test_a_noise_with_a_random_source_of_its_own() -> None:
    class Random(Noise):
        name = "random"

        def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
            own = torch.Generator()
            own.seed()
            return torch.rand(images.shape, generator=own) * self.radius

    assert broken("noise", Random()) == ["same seed, same bytes"]


def test_a_noise_that_forgets_what_it_kept() -> None:
    class Forgets(Noise):
        name = "forgets"

        def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
            delta = torch.zeros_like(images)
            for _ in context.steps(10):
                delta += torch.rand_like(delta) * self.radius / 10
                context.keep(delta=delta)
            return delta

    assert broken("noise", Forgets()) == ["resumes to the same bytes"]


def test_a_noise_over_its_budget_or_of_the_wrong_shape() -> None:
    class Large(Noise):
        name = "large"

        def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
            return torch.full_like(images, 1.5 * self.radius)

    class Flat(Noise):
        name = "flat"

        def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
            return torch.zeros(len(images))

    assert broken("noise", Large()) == broken("noise", Flat()) == ["keeps shape, type and budget"]


def test_a_breaker_that_leaves_its_marks_on_the_model() -> None:
    class Marks(Breaker):
        name = "marks"

        def attack(self, model: nn.Module, images: Tensor, targets: Tensor, progress: float) -> Tensor:
            model(images)  # in train mode: moves the running statistics
            return images

    assert broken("breaker", Marks()) == ["attack leaves the model alone"]


def test_a_breaker_that_leaves_the_pixel_range() -> None:
    class Bright(Breaker):
        name = "bright"

        def augment(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            return images + 0.5, targets

    assert broken("breaker", Bright()) == ["augment keeps shape, type and range"]


@pytest.mark.parametrize("part", ["filter", "augment", "attack"])
def test_a_breaker_that_does_something_at_its_neutral_value(part: str) -> None:
    class Shifts(Breaker):
        name = "shifts"
        shift: float = parameter(default=0.5, doc="shift", neutral=0)

        def _darker(self, images: Tensor) -> Tensor:
            return images * (0.9 - self.shift)

    acts = {
        "filter": lambda self, images, labels: self._darker(images),
        "augment": lambda self, images, targets: (self._darker(images), targets),
        "attack": lambda self, model, images, targets, progress: self._darker(images),
    }
    setattr(Shifts, part, acts[part])
    assert broken("breaker", Shifts()) == ["does nothing with shift=0"]
    delattr(Shifts, part)
    assert broken("breaker", Shifts()) == []


@pytest.mark.parametrize("wrong", [lambda soft: soft.argmax(1), lambda soft: 2 * soft, lambda soft: 3 * soft - 0.5])
def test_a_breaker_whose_targets_are_no_distribution(wrong: Callable[[Tensor], Tensor]) -> None:
    class Muddles(Breaker):
        name = "muddles"

        def augment(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            return images, wrong(targets)

    assert broken("breaker", Muddles()) == ["augment returns soft targets"]


def test_a_target_that_gives_no_logits_or_stops_gradients() -> None:
    class Three(Target):
        name = "three"

        def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 3))

    class Detached(nn.Flatten):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.detach()) + 0 * images.sum()

    class Stops(Target):
        name = "stops"

        def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
            return nn.Sequential(Detached(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

    assert broken("target", Three()) == ["gives logits"]
    assert broken("target", Stops()) == ["lets gradients reach the image"]


def test_a_noise_that_raises_is_told_with_the_line() -> None:
    class Raises(Noise):
        name = "raises"

        def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
            raise KeyError("seven")

    (finding,) = (one for one in check.check_component("noise", Raises()) if one.rule == "runs")
    line = Raises.make.__code__.co_firstlineno + 1
    assert finding == check.Finding("runs", False, f"KeyError: 'seven' (test_check.py, line {line})")


class Random(Noise):
    """Draw each value from the right generator, and leave the rest to be got wrong."""

    name = "random"
    paper = "none"

    def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
        return self.radius * torch.rand_like(images)


@pytest.mark.parametrize(
    "make",
    [
        lambda noise, images, context: noise.radius * torch.rand(images.shape),
        lambda noise, images, context: (noise.radius * torch.rand(4))[context.device.index or 0].expand_as(images),
        lambda noise, images, context: None,
        lambda noise, images, context: torch.full_like(images, torch.nan),
        lambda noise, images, context: torch.ones_like(images, dtype=torch.int64),
    ],
)
def test_a_noise_is_a_tensor_of_finite_numbers(make: Callable[..., object]) -> None:
    class Made(Random):
        def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
            return make(self, images, context)  # type: ignore[return-value]

    made = make(Random(), torch.zeros(2, 3, 4, 4), type("", (), {"device": torch.device("cpu")}))
    fine = isinstance(made, Tensor) and made.is_floating_point() and bool(made.isfinite().all())
    assert broken("noise", Made()) == ([] if fine else ["keeps shape, type and budget"])


def test_a_noise_whose_budget_shrinks_once_it_is_audited() -> None:
    class Shrinks(Random):
        asked: ClassVar[int] = 0

        def budget(self, shape: Sequence[int]) -> Budget:
            type(self).asked += 1
            return Budget("linf", self.radius / (2 - self.asked % 2))

    assert broken("noise", Shrinks()) == ["keeps the budget in 8 bits"]


def test_a_noise_that_creates_tensors_on_the_host() -> None:
    class Host(Random):
        def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
            return torch.rand(images.shape) * (0 * images + self.radius)

    (finding,) = (
        one for one in check.check_component("noise", Host()) if not one.kept and one.rule.startswith("follows")
    )
    line = Host.make.__code__.co_firstlineno + 1
    assert broken("noise", Host()) == [finding.rule] == ["follows its images to another device"]
    assert finding.advice.startswith("create tensors with device=images.device; RuntimeError: aten.mul.Tensor takes")
    assert finding.advice.endswith(f"on two devices (test_check.py, line {line})")


def test_a_noise_that_goes_on_from_the_host() -> None:
    """What was kept comes back on the host; a GPU shows it only after a kill."""

    class GoesOn(Random):
        def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
            delta = context.kept().get("delta", torch.zeros_like(images))
            for _ in context.steps(10):
                delta = delta + self.radius / 10 * torch.rand_like(images)
                context.keep(delta=delta)
            return delta

    assert broken("noise", GoesOn()) == ["follows its images to another device"]


def test_a_noise_that_prepares_in_one_step_what_later_ones_need() -> None:
    class Blocks(Random):
        def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
            blocks, delta = torch.arange(len(images), device=images.device).tensor_split(5), torch.zeros_like(images)
            scale = context.kept().get("scale", torch.empty(0)).to(delta)
            delta = context.kept().get("delta", delta).to(delta)
            for step in context.steps(3 * len(blocks)):
                index = blocks[step // 3]
                if step % 3 == 0:
                    scale = torch.rand_like(images[index])
                delta[index] += self.radius / 3 * scale
                context.keep(delta=delta, scale=scale)
            return delta

    assert broken("noise", Blocks()) == []
    check.assert_contract("ntga-pgd")


def test_what_a_component_says_of_itself() -> None:
    class Silent(Noise):
        name = "silent"
        make = Random.make

    assert [one.rule for one in check.check_component("noise", Silent()) if not one.kept] == [
        "says what it is",
        "names its source",
        "can be sent to a worker",
    ]
    assert [one.rule for one in check.check_component("noise", Random()) if not one.kept] == []


BREAKERS: dict[str, Callable[..., object]] = {
    "same seed, same filter": lambda own: {
        "filter": lambda self, images, *rest: torch.rand(images.shape, generator=own)
    },
    "filter keeps shape and type": lambda own: {"filter": lambda self, images, *rest: images[:, :1]},
    "augment keeps shape, type and range": lambda own: {
        "augment": lambda self, images, targets: (images.double(), targets)
    },
    "attack keeps shape, type and range": lambda own: {
        "attack": lambda self, model, images, targets, progress: images - 1
    },
    "leaves its inputs alone": lambda own: {"attack": lambda self, model, images, targets, progress: images.mul_(0.5)},
    "same seed, same batch": lambda own: {
        "attack": lambda self, model, images, targets, progress: images * torch.rand(1, generator=own).item()
    },
    "follows its images to another device": lambda own: {
        "augment": lambda self, images, targets: (images * torch.ones(images.shape[1:]), targets)
    },
}


@pytest.mark.parametrize("rule", BREAKERS)
def test_a_breaker_that_breaks_one_rule(rule: str) -> None:
    own = torch.Generator()
    own.seed()
    made = type("Wrong", (Breaker,), {"name": "wrong", **BREAKERS[rule](own)})  # type: ignore[dict-item]
    assert broken("breaker", made()) == [rule]


def test_a_breaker_that_chooses_does_nothing_else_and_among_what_can_be_chosen() -> None:
    class Chooses(Breaker):
        name = "chooses"
        chains: ClassVar[list[tuple[Breaker, ...]]] = [(NoBreaker(),), (AdvLinf(steps=1),)]
        share: ClassVar[float] = 0.5

        def choice(self) -> Choice:
            return Choice(self.chains, self.share)

    assert broken("breaker", Chooses()) == []

    class Works(Chooses):
        def filter(self, images: Tensor, labels: Tensor) -> Tensor:
            return images

    assert broken("breaker", Works()) == ["does nothing but choose"]
    for chains in ([], [(NoBreaker(),)], [(NoBreaker(),), (Chooses(),)], [(NoBreaker(),), (AdvLinf(), AdvLinf())]):
        made = type("Wrong", (Chooses,), {"chains": chains})
        assert broken("breaker", made()) == ["chooses among chains"], chains
    assert broken("breaker", type("All", (Chooses,), {"share": 1.0})()) == ["holds out some images"]


def test_a_breaker_that_changes_its_targets() -> None:
    class Relabels(Breaker):
        name = "relabels"

        def augment(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            targets += targets.flip(0)
            return images, targets - targets.flip(0) / 2

    assert "leaves its inputs alone" in broken("breaker", Relabels())


@pytest.mark.parametrize(
    "where",
    ["filter", "attack"],
)
def test_a_breaker_that_is_on_the_host_in_its_filter_or_attack(where: str) -> None:
    class Host(Breaker):
        name = "host"

    def blend(self: Breaker, *given: Tensor) -> Tensor:
        images = given[where == "attack"]
        return images * torch.ones(images.shape[1:])

    setattr(Host, where, blend)
    assert broken("breaker", Host()) == ["follows its images to another device"]


class Flat(nn.Sequential):
    """A linear layer on the pixels."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
        self.mean = torch.full((3, 1, 1), 0.5)  # no buffer: stays behind when the network moves


def test_a_target_that_leaves_a_tensor_behind_or_draws_its_own_weights() -> None:
    class Shifted(Flat):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images - self.mean)

    class Behind(Target):
        name = "behind"

        def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
            return Shifted(shape, classes)

    class Own(Target):
        name = "own"

        def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
            network, own = Flat(shape, classes), torch.Generator()
            own.seed()
            nn.init.normal_(network[1].weight, generator=own)  # type: ignore[arg-type]
            return network

    assert broken("target", Behind()) == ["follows its images to another device"]
    assert broken("target", Own()) == ["same seed, same weights"]


class Grey(Source):
    """Two grey classes."""

    name = "grey"

    def load(self, folder: Path) -> Dataset:
        labels = torch.arange(8) % 2
        split = Split((100 * labels[:, None, None, None] + torch.zeros(8, 3, 4, 4)).to(torch.uint8), labels)
        return Dataset(split, split, ["dark", "bright"])


def test_a_source_that_keeps_every_rule() -> None:
    assert broken("dataset", Grey()) == []


def other_labels(data: Dataset) -> Dataset:
    return replace(data, train=Split(data.train.images, torch.randint(0, 2, (8,))))


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("keeps shapes, types and labels", lambda data: replace(data, classes=["one"])),
        ("loads the same each time", other_labels),
        ("loads the same each time", lambda data: replace(data, classes=[str(torch.rand(1).item()), "b"])),
    ],
)
def test_a_source_that_loads_wrongly(rule: str, change: Callable[[Dataset], Dataset]) -> None:
    class Wrong(Grey):
        def load(self, folder: Path) -> Dataset:
            return change(super().load(folder))

    assert broken("dataset", Wrong()) == [rule]


@pytest.mark.parametrize(("method", "value"), [("shape", (3, 9, 9)), ("class_count", 9)])
def test_a_source_that_declares_what_it_does_not_load(method: str, value: object) -> None:
    wrong = type("Wrong", (Grey,), {method: lambda source: value})
    assert broken("dataset", wrong()) == ["declares what it loads"]


OWN = torch.Generator()


@pytest.mark.parametrize(
    ("rule", "augment"),
    [
        ("augment keeps the range", lambda images: images - 0.5),
        ("leaves its inputs alone", lambda images: images.mul_(0.5) if not images.requires_grad else images * 0.5),
        ("same seed, same augmentation", lambda images: images * torch.rand(1, generator=OWN).item()),
        ("gradients pass through augment", lambda images: images.detach() + 0 * images),
        ("follows its images to another device", lambda images: images * torch.ones(images.shape[1:])),
    ],
)
def test_a_source_that_augments_wrongly(rule: str, augment: Callable[[Tensor], Tensor]) -> None:
    class Wrong(Grey):
        def augment(self, images: Tensor) -> Tensor:
            return augment(images)

    OWN.seed()
    assert broken("dataset", Wrong()) == [rule]


def test_the_contract_in_a_test_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    check.assert_contract("none")
    check.assert_contract("rem:steps=3,noise_steps=1,adv_steps=1", suite=str(TINY))
    monkeypatch.setattr(registry().find("breaker", "none").cls, "filter", lambda self, images, *rest: images[:, :1])
    with pytest.raises(AssertionError, match=r"^breaker none: filter keeps shape and type: breaker none: filter must"):
        check.assert_contract("none")
    with pytest.raises(UserError, match="no component is called 'remm'; did you mean rem"):
        check.assert_contract("remm")


def test_a_plug_in_that_was_left_out_is_named_where_it_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = PluginProblem("mine = my_noise", "my-noise", "NameError: name 'tirch'\nis not defined")
    monkeypatch.setattr(registry(), "problems", [problem])
    expected = "; left out: mine = my_noise: NameError: name 'tirch' is not defined"
    for ask in (lambda: registry().named("mine"), lambda: registry().find("noise", "mine")):
        with pytest.raises(UserError) as caught:
            ask()
        assert str(caught.value).endswith(expected)
