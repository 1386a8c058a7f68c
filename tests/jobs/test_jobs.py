"""Jobs from end to end: victims and the noises made against them, sets that come batch by batch, and what is told."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import safetensors.torch
import torch
from rich.console import Console
from torch import Tensor, nn

from tests.conftest import TINY
from uebench import Context, Dataset, Images, Noise, Recipe, Source, Split, Target, UserError, kit, parameter
from uebench.cli import progress
from uebench.components.errors import ContractError
from uebench.components.registry import registry
from uebench.compute.train import evaluate_network
from uebench.executors.local import run_locally
from uebench.executors.messages import Failed, RunOutline, StepReport
from uebench.executors.scheduler import JobQueue
from uebench.jobs import cell, checkpoint, protect
from uebench.jobs.checkpoint import StoredProgress
from uebench.jobs.datasets import load_dataset
from uebench.jobs.environment import hash_component_code
from uebench.jobs.protect import NoiseContext
from uebench.jobs.run import finish_job, run_job, run_job_once
from uebench.jobs.tensor_files import unpack_tensors
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import Cell, Job, Plan, Protect, Victim, plan_protect, plan_selection
from uebench.planning.selection import Selection
from uebench.planning.suite_file import read_suite
from uebench.storage.result import Result
from uebench.storage.store import Store
from uebench_plugins.breakers.none import NoBreaker
from uebench_plugins.datasets.digits import Digits
from uebench_plugins.noises.em import EM
from uebench_plugins.noises.none import NoNoise
from uebench_plugins.noises.ntga import NTGA
from uebench_plugins.noises.rem import REM
from uebench_plugins.noises.sc import SC
from uebench_plugins.noises.sem import SEM
from uebench_plugins.noises.tap import TAP
from uebench_plugins.targets.resnet import ResNet8
from uebench_plugins.targets.smallcnn import SmallCNN

CPU = torch.device("cpu")
TINY_RECIPE = Recipe(steps=60, batch=64, schedule="one-cycle", evaluations=4)
VICTIM = SmallCNN(width=4)
DIGITS = Digits(test_images=1400)
TAPPED = TAP(radius=0.1, victim=VICTIM, noise_steps=2, noise_step=0.5)


def silent(step: int, count: int, loss: float | None) -> None:
    return None


def planned(noises: Sequence[Noise], recipe: Recipe = TINY_RECIPE, seeds: Sequence[int] = (0,)) -> Plan:
    """Return the plan of some noises for the digits, on the small network, under no breaker."""
    chosen = Selection(read_suite(str(TINY)), [DIGITS], noises, [(NoBreaker(),)], [VICTIM], recipe, seeds)
    return plan_selection(chosen, NoNoise(), (NoBreaker(),), [""])


def weights_of(store: Store, victim: Victim) -> dict[str, Tensor]:
    files = store.find(victim.key)
    assert files
    return safetensors.torch.load_file(files["weights.safetensors"])


def released_by(store: Store, job: Protect) -> Tensor:
    files = store.find(job.key)
    assert files
    return safetensors.torch.load_file(files["released.safetensors"])["images"]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# ---- victims in a plan


def test_noises_against_the_same_network_share_one_victim_a_seed() -> None:
    others = [replace(TAPPED, noise_steps=3), EM(surrogate=VICTIM), replace(TAPPED, victim=SmallCNN(width=5))]
    made = planned([TAPPED, *others], seeds=[0, 1])
    assert len(made.victims) == 4
    assert {(victim.target, victim.seed) for victim in made.victims} == {
        (target, seed) for target in (VICTIM, SmallCNN(width=5)) for seed in (0, 1)
    }
    needed = {(job.noise, job.seed): [victim.key for victim in job.victims] for job in made.protects}
    for seed in (0, 1):
        assert len(needed[TAPPED, seed]) == 1
        assert needed[TAPPED, seed] == needed[others[0], seed] != needed[others[2], seed]
        assert needed[others[1], seed] == needed[NoNoise(), seed] == []
    places = {job.key: place for place, job in enumerate(made.jobs)}
    assert len(places) == len(made.jobs)
    assert all(places[need.key] < places[job.key] for job in made.jobs for need in job.needs)


def test_a_victims_key_holds_what_its_weights_depend_on_and_no_noise() -> None:
    (victim,) = planned([TAPPED]).victims
    changed = [
        replace(victim, seed=1),
        replace(victim, recipe=replace(TINY_RECIPE, steps=61)),
        replace(victim, target=SmallCNN(width=5)),
        replace(victim, fingerprint="x"),
        replace(victim, source=Digits(test_images=1399)),
    ]
    assert len({one.key for one in [victim, *changed]}) == 6
    assert [one.key for one in planned([replace(TAPPED, noise_steps=9)]).victims] == [victim.key]


def test_a_noises_key_depends_on_the_recipe_only_through_its_victims() -> None:
    em = EM(surrogate=VICTIM)

    def keys(**options: Any) -> dict[str, str]:
        return {job.noise.name: job.key for job in planned([TAPPED, em], replace(TINY_RECIPE, **options)).protects}

    usual, longer, rough = keys(), keys(steps=61), keys(precision="bf16")
    assert usual["em"] == longer["em"] != rough["em"]
    assert usual["none"] == longer["none"]
    assert len({usual["tap"], longer["tap"], rough["tap"]}) == 3
    assert "victims" not in planned([em]).protects[-1].identity, "keys of noises without victims stay what they were"


# ---- victims at work


def test_no_two_of_victim_surrogate_and_target_start_alike(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    made = planned([TAPPED])
    starts: list[dict[str, Tensor]] = []

    def train(network: nn.Module, *rest: Any, **options: Any) -> None:
        starts.append({name: value.clone() for name, value in network.named_parameters() if value.ndim == 4})
        raise InterruptedError

    job = made.protects[-1]
    run_job(made.protects[0], place, silent)
    for module in (protect, cell):
        monkeypatch.setattr(module, "train_network", train)
    for one in (made.victims[0], made.cells[0]):
        with pytest.raises(InterruptedError):
            run_job(one, place, silent)
    context = lend(job, load_dataset(DIGITS, "", place.store), place)
    surrogate = context.network(VICTIM)
    starts.append({name: value for name, value in surrogate.named_parameters() if value.ndim == 4})
    victim, target, surrogate_start = starts
    assert victim
    for name in victim:
        assert not torch.equal(victim[name], target[name])
        assert not torch.equal(victim[name], surrogate_start[name])
        assert not torch.equal(target[name], surrogate_start[name])


def lend(job: Protect, loaded: Dataset, place: Workspace) -> NoiseContext:
    return NoiseContext(job, loaded, place, written(place, job), partial(finish_job, workspace=place, report=silent))


def written(place: Workspace, job: Job) -> StoredProgress:
    return StoredProgress(place.store, job.key, 0, silent, 60)


def test_a_victim_knows_the_clean_set_and_is_lent_as_it_was_stored(place: Workspace) -> None:
    made = planned([TAPPED])
    (victim,), job = made.victims, made.protects[-1]
    assert run_job_once(victim, place, silent) is True
    stored = weights_of(place.store, victim)
    loaded = load_dataset(DIGITS, "", place.store)
    trained = lend(job, loaded, place).network(VICTIM, trained=True)
    assert same(dict(trained.state_dict()), stored)
    confusion = evaluate_network(trained, loaded.train, 10)
    assert int(confusion.diagonal().sum()) > 0.5 * int(confusion.sum())
    by_name = lend(job, loaded, place).network("smallcnn:width=4", trained=True)
    assert same(dict(by_name.state_dict()), stored)


def test_a_noise_makes_the_victim_that_it_lacks(place: Workspace) -> None:
    """The store may have lost it since the run began; two noises train it once."""
    made = planned([TAPPED, replace(TAPPED, noise_steps=1)])
    for job in made.protects[1:]:
        run_job(job, place, silent)
        first = weights_of(place.store, made.victims[0])
    assert same(first, weights_of(place.store, made.victims[0]))
    assert not torch.equal(*(released_by(place.store, job) for job in made.protects[1:]))


class Undeclared(Noise):
    """Asks for a trained network without a word."""

    name = "undeclared"
    width: int = parameter(default=4)

    def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
        context.network(SmallCNN(width=self.width), trained=True)
        return torch.zeros_like(images)


class Declared(Undeclared):
    """Declares one network."""

    name = "declared"

    def victims(self) -> Sequence[Target]:
        return (VICTIM,)


@pytest.mark.parametrize("noise", [Undeclared(), Declared(width=5)])
def test_a_trained_network_must_be_declared(noise: Noise, place: Workspace) -> None:
    job = planned([noise]).protects[-1]
    with pytest.raises(ContractError, match=f"{noise.name} asks for a trained smallcnn that its victims.. do not decl"):
        run_job(job, place, silent)
    assert place.store.find(job.key) is None


class Prompt(StoredProgress):
    """A journal that reports every step."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.period = -1


class Killed(Exception):
    """The process dies."""


def test_a_victim_killed_on_its_way_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protect, "StoredProgress", Prompt)
    (victim,) = planned([TAPPED]).victims
    straight, broken = (Workspace(Store(tmp_path / name), CPU, every=0) for name in ("straight", "broken"))
    run_job(victim, straight, silent)
    for dies_at in (1, 31, 59):
        seen: list[int] = []

        def report(step: int, count: int, loss: float | None, dies_at: int = dies_at) -> None:
            seen.append(step)  # noqa: B023  read in this round
            if step == dies_at:
                raise Killed

        with pytest.raises(Killed):
            run_job(victim, broken, report)
        assert seen[0] == {1: 0, 31: 1, 59: 31}[dies_at], "it goes on where it was"
        assert broken.store.find(victim.key) is None
    run_job(victim, broken, silent)
    assert same(weights_of(straight.store, victim), weights_of(broken.store, victim))
    assert not broken.store.kept(victim.key)


class Failing(Target):
    """A network that cannot be built."""

    name = "failing"

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        raise UserError("no such layers")


class Witness:
    """A listener that notes what happens, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.reasons: list[str] = []

    def started(self, job: Job) -> None:
        self.events.append(("start", job.key))

    def progressed(self, job: Job, progress: StepReport) -> None:
        assert 0 <= progress.step <= progress.count

    def finished(self, job: Job, result: Result | bool) -> None:
        assert result
        self.events.append(("end", job.key))

    def failed(self, job: Job, failure: Failed) -> None:
        self.events.append(("end", job.key))
        self.reasons.append(failure.reason)

    def note(self, line: str) -> None:
        raise AssertionError(line)


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_wait_for_those_they_need_and_fail_with_them(tmp_path: Path, workers: int) -> None:
    made = planned([replace(TAPPED, victim=Failing()), TAPPED], replace(TINY_RECIPE, steps=20))
    witness = Witness()
    queue = JobQueue(witness)
    run_locally(made, queue, tmp_path, device="cpu", workers=workers, threads=1, every=60)
    places = {event: place for place, event in enumerate(witness.events)}
    begun = [job for job in made.jobs if ("start", job.key) in places]
    assert {job.key for job in begun if isinstance(job, Victim)} == {victim.key for victim in made.victims}
    for job in begun:
        assert all(places["end", need.key] < places["start", job.key] for need in job.needs)
    (failed,) = [victim for victim in made.victims if victim.target == Failing()]
    doomed = [job for job in made.jobs if failed in (*job.needs, *(two for one in job.needs for two in one.needs))]
    assert len(doomed) == 2
    assert not {job.key for job in doomed} & {job.key for job in begun}
    assert witness.reasons == ["no such layers"]
    assert queue.failures == {
        failed.key: "no such layers",
        **{job.key: "a job that it needs failed: no such layers" for job in doomed},
    }
    assert {result.parameters["noise"].partition("@")[0] for result in queue.results.values()} == {"none", "tap"}


# ---- sets that come batch by batch

HANDED: list[tuple[str, tuple[int, ...]]] = []
"""What noises were handed, by type, and the labels' shape."""


class Streamed(Noise):
    """Brighten the dark half of the range, more for higher labels, in small batches."""

    name = "streamed"
    streams: ClassVar[bool] = True

    def make(self, images: Images, labels: Tensor, context: Context) -> Tensor:
        HANDED.append((type(images).__name__, tuple(labels.shape)))
        delta = kit.blank(images, self.radius)
        for index in torch.split(torch.arange(len(images)), 50):
            delta[index] = kit.to_steps(self.rule(images[index], labels[index]), self.radius)
        return delta

    def rule(self, images: Tensor, labels: Tensor) -> Tensor:
        return (images < 0.5) * (labels + 0.3).view(-1, 1, 1, 1) / 10 * self.radius


class Whole(Streamed):
    """The same on the set at once."""

    name = "whole"
    streams: ClassVar[bool] = False

    def make(self, images: Images, labels: Tensor, context: Context) -> Tensor:
        HANDED.append((type(images).__name__, tuple(labels.shape)))
        assert isinstance(images, Tensor)
        return self.rule(images, labels)


class Counting(kit.Pixels):
    """Pixels that note how many images are asked for at a time."""

    asked: ClassVar[list[int]] = []

    def __getitem__(self, index: Any) -> Tensor:
        batch = super().__getitem__(index)
        self.asked.append(len(batch))
        return batch


def test_a_streaming_noise_never_has_the_whole_set_as_floats(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protect, "Pixels", Counting)
    HANDED.clear()
    released = []
    for noise, most in ((Streamed(), 50), (Whole(), 397)):
        Counting.asked.clear()
        job = planned([noise]).protects[-1]
        run_job(job, place, silent)
        assert max(Counting.asked) == most
        assert sum(Counting.asked) == 397
        released.append(released_by(place.store, job))
    assert HANDED == [("Counting", (397,)), ("Tensor", (397,))]
    assert torch.equal(*released)
    assert not torch.equal(released[0], load_dataset(DIGITS, "", place.store).train.images)


def test_a_set_that_crowds_the_device_is_for_streaming_noises(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workspace, "holds", lambda self, size: False)
    with pytest.raises(UserError, match="noise whole uses the whole set at once, which does not fit on cpu"):
        run_job(planned([Whole()]).protects[-1], place, silent)


# ---- data sets that cannot be run, and those whose images are larger than what networks see


class Window(Source):
    """A few images of four classes, 8x8, of which a network sees a random 6x6 part; flaws on demand."""

    name = "window"

    flaw: str = parameter(default="")

    def load(self, folder: Path) -> Dataset:
        labels = torch.arange(64) % 4
        draw = torch.Generator().manual_seed(0)
        images = torch.randint(0, 120, (64, 3, 8, 8), generator=draw) + 40 * labels[:, None, None, None]
        train = Split(images.to(torch.uint8), labels)
        size = 8 if self.flaw == "shape" else 6
        count = 0 if self.flaw == "untested" else 20
        test = Split(train.images[:count, :, 1 : 1 + size, 1 : 1 + size].contiguous(), labels[:count])
        skipped = {"one": ["a.png: empty"], "more": ["a.png: empty", "b.png: empty", "c.png: empty"]}
        if self.flaw == "shape":
            test = Split(train.images[:count], labels[:count])
        return Dataset(train, test, list("abcd"), skipped=skipped.get(self.flaw, ()))

    def augment(self, images: Tensor) -> Tensor:
        return kit.crop_and_flip(images, 1)[:, :, 1:7, 1:7]


def cell_with(source: Source, noise: Noise) -> Cell:
    recipe = Recipe(steps=6, batch=16, evaluations=1)
    return Cell(plan_protect(source, "", noise, recipe, 0), (NoBreaker(),), VICTIM, recipe)


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("untested", "dataset window has no test images; it can be protected, not run"),
        ("one", "dataset window: cannot read a.png: empty$"),
        ("more", r"dataset window: cannot read a.png: empty \(and 2 more\)"),
    ],
)
def test_a_run_refuses_an_incomplete_set_which_can_be_protected(flaw: str, message: str, place: Workspace) -> None:
    made = cell_with(Window(flaw=flaw), TAP(radius=0.1, victim=VICTIM, noise_steps=1))
    run_job(made.protect, place, silent)
    assert len(released_by(place.store, made.protect)) == 64
    with pytest.raises(UserError, match=message):
        run_job(made, place, silent)
    assert place.store.find(made.key) is None


def test_a_set_tested_in_another_shape_than_it_is_learned_in_is_refused(place: Workspace) -> None:
    made = cell_with(Window(flaw="shape"), NoNoise())
    with pytest.raises(
        ContractError, match=r"dataset window: augmented training images are \(3, 6, 6\), test images \(3, 8, 8\)"
    ):
        run_job(made.protect, place, silent)


SMALL: dict[str, Any] = {"radius": 0.1, "surrogate": VICTIM, "steps": 3, "batch": 16, "noise_steps": 2}


@pytest.mark.parametrize(
    "noise",
    [
        EM(**SMALL),
        REM(**SMALL, draws=2, adv_radius=0.05, adv_steps=2),
        TAP(radius=0.1, victim=VICTIM, noise_steps=2, batch=16),
        TAP(radius=0.1, victim=VICTIM, noise_steps=2, batch=16, restarts=2),
        SC(radius=0.1, patch=4),
        NTGA(radius=0.1, block=8, folds=4),
    ],
    ids=lambda noise: f"{noise.name}{getattr(noise, 'restarts', '')}",
)
def test_images_larger_than_what_a_network_sees_go_all_the_way(noise: Noise, place: Workspace) -> None:
    made = cell_with(Window(), noise)
    assert isinstance(run_job_once(made, place, silent), Result)
    clean, released = Window().load(Path()).train.images, released_by(place.store, made.protect)
    assert released.shape == clean.shape
    assert bool((released != clean).flatten(1).any(1).all()), "an image without noise"
    if noise.name != "sc":
        assert int((released.int() - clean.int()).abs().max()) <= 25


# ---- the same bytes wherever they are made

TINY_NOISES = {
    "*": {
        "radius": "16/255",
        "surrogate": "smallcnn:width=4",
        "victim": "smallcnn:width=4",
        "steps": 4,
        "batch": 64,
        "noise_steps": 2,
        "draws": 2,
        "adv_steps": 2,
        "rounds": 2,
        "learn": 3,
        "block": 50,
        "validation": 40,
        "patch": 2,
    }
}
NOISES = sorted(set(registry().entries["noise"]) - {"none", "file"})


@pytest.fixture(scope="module")
def made_twice(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """Make every noise in one process, and in three; give the released files by the noise's name."""
    noises = [registry().build("noise", name, {"noise": TINY_NOISES}) for name in NOISES]
    recipe = Recipe(steps=5, batch=64, evaluations=1)
    jobs = [plan_protect(DIGITS, "", cast(Noise, noise), recipe, 0) for noise in noises]
    victims = list({victim.key: victim for job in jobs for victim in job.victims}.values())
    found: dict[str, list[bytes]] = {name: [] for name in NOISES}
    for workers in (1, 3):
        root, queue = tmp_path_factory.mktemp(f"workers-{workers}"), JobQueue(Witness())
        plan = Plan(victims, jobs, [])
        run_locally(plan, queue, root, device="cpu", workers=workers, threads=1, every=60)
        assert not queue.failures
        for job in jobs:
            files = Store(root).find(job.key)
            assert files
            found[job.noise.name].append(files["released.safetensors"].read_bytes())
    return found


@pytest.mark.parametrize("name", NOISES)
def test_released_images_do_not_depend_on_the_number_of_workers(name: str, made_twice: dict[str, list[bytes]]) -> None:
    alone, crowded = made_twice[name]
    assert alone == crowded
    images = safetensors.torch.load(alone)["images"]
    assert not torch.equal(images, DIGITS.load(Path()).train.images)


# ---- what is told on the way


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: Any) -> None:
        self.now = 1000.0
        for module in modules:
            monkeypatch.setattr(module, "time", self)

    def monotonic(self) -> float:
        return self.now

    def strftime(self, pattern: str) -> str:
        return "12:00:00"


class Loss:
    """A loss that counts how often it is read."""

    def __init__(self) -> None:
        self.read = 0

    def __float__(self) -> float:
        self.read += 1
        return 0.25


def test_a_loss_is_read_only_when_it_is_reported(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, loss = Clock(monkeypatch, checkpoint), Loss()
    reports: list[tuple[int, int, float | None]] = []
    diary = StoredProgress(store, "key", 0, lambda *report: reports.append(report), every=60)
    for step in diary.steps(100):
        if step >= 3:
            diary.tell(cast(Tensor, loss))
        clock.now += 0.05
    # the first step, those behind more than 0.2 s of silence, and the end
    assert [report[0] for report in reports] == [*range(0, 100, 5), 100]
    assert reports[0] == (0, 100, None)
    assert all(report[1:] == (100, 0.25) for report in reports[1:])
    assert loss.read == len(reports) - 1 + checkpoint.LOG_LINES


@pytest.mark.parametrize(("every", "kept"), [(0, [*range(1, 13)]), (1, [4, 8, 12]), (2.5, [10]), (60, [])])
def test_state_is_kept_no_more_often_than_asked_for(
    every: float, kept: list[int], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, checkpoint)
    diary = StoredProgress(store, "key", 0, silent, every=every)
    written: list[int] = []
    gathered: list[int] = []
    keep = store.keep

    def note(key: str, content: bytes) -> None:
        written.append(int(unpack_tensors(content)["progress.next"]))
        keep(key, content)

    monkeypatch.setattr(store, "keep", note)
    for step in diary.steps(12):
        clock.now += 0.25
        diary.keep(lambda: gathered.append(1) or {"more": torch.tensor(0)}, value=torch.tensor(step))  # type: ignore[func-returns-value]
    assert written == kept
    assert len(gathered) == len(kept)
    resumed = StoredProgress(store, "key", 0, silent, every=every)
    assert list(resumed.steps(12)) == list(range(kept[-1] if kept else 0, 12))
    assert resumed.kept().keys() == ({"value", "more"} if kept else set())
    assert resumed.seconds == pytest.approx(0.25 * kept[-1] if kept else 0)


def test_a_job_half_done_by_other_code_starts_over_and_says_so(store: Store) -> None:
    lines: list[str] = []
    store.report = lines.append

    def begun(by: str) -> int:
        diary = StoredProgress(store, "key", 0, silent, every=0, code=by)
        step = next(diary.steps(9))
        diary.keep(value=torch.tensor(step))
        return step

    assert [begun(by) for by in ("one", "one", "two", "two")] == [0, 1, 0, 1]
    assert lines == ["job key has a checkpoint of other code than there is now; it starts over"]


def test_the_code_of_a_job_is_that_of_its_components_their_parameters_and_what_they_extend() -> None:
    noise = SEM(surrogate=SmallCNN())
    assert (
        hash_component_code(noise)
        == hash_component_code(SEM(surrogate=SmallCNN(width=3)))
        == hash_component_code(noise, SmallCNN())
    ), "parameters are in the key"
    assert (
        len(
            {
                hash_component_code(noise),
                hash_component_code(SEM(surrogate=ResNet8())),
                hash_component_code(REM(surrogate=SmallCNN())),
                hash_component_code(noise, SC()),
            }
        )
        == 4
    )


def told(monkeypatch: pytest.MonkeyPatch) -> tuple[Clock, progress.Lines, Job, io.StringIO]:
    job, output = planned([NoNoise()]).protects[0], io.StringIO()
    clock = Clock(monkeypatch, progress)
    lines = progress.make_listener(Console(file=output, width=40), RunOutline({job.key: "making [none]"}, 3))
    assert type(lines) is progress.Lines
    lines.started(job)
    return clock, lines, job, output


def test_a_log_tells_loss_rate_and_time_left_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, lines, job, output = told(monkeypatch)
    lines.progressed(job, StepReport(100, 1100, None))  # resumed at 100
    for step in range(101, 601):
        clock.now += 0.1
        lines.progressed(job, StepReport(step, 1100, None if step < 402 else 0.12345))
    assert output.getvalue().splitlines() == [
        "12:00:00 start  making [none]",
        "12:00:00 step   making [none]: 401 of 1100, 10 steps/s, 0:01:10 left",
    ]
    clock.now += 31
    lines.progressed(job, StepReport(700, 1100, 0.12345))
    clock.now += 31
    lines.progressed(job, StepReport(1100, 1100, math.nan))
    lines.finished(job, True)
    assert output.getvalue().splitlines()[2:] == [
        "12:00:00 step   making [none]: 700 of 1100, loss 0.123, 7.41 steps/s, 0:00:54 left",
        "12:00:00 step   making [none]: 1100 of 1100, loss nan, 8.93 steps/s, 0:00:00 left",
        "12:00:00 done   making [none]  [0 of 3 cells]",
    ]


def test_bars_show_the_loss_beside_the_name() -> None:
    job, output = planned([NoNoise()]).protects[0], io.StringIO()
    console = Console(file=output, width=120, force_terminal=True, color_system=None)
    bars = progress.make_listener(console, RunOutline({job.key: "making [none]"}, 3))
    assert isinstance(bars, progress.Bars)
    bars.started(job)
    bars.progressed(job, StepReport(4, 8, None))
    console.print(bars.progress.get_renderable())
    bars.progressed(job, StepReport(5, 8, 0.12345))
    console.print(bars.progress.get_renderable())
    shown = [line for line in output.getvalue().splitlines() if "making" in line]
    assert "making [none] " in shown[0]
    assert "4/8" in shown[0]
    assert "making [none], loss 0.123 " in shown[1]
    assert "5/8" in shown[1]
    bars.finished(job, True)
    assert len(bars.progress.tasks) == 1, "the bar of all cells"
