"""The cross product: which cells there are, what is in their keys, and what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.conftest import TINY
from uebench import Noise, Recipe, Target
from uebench.components.registry import registry
from uebench.compute.seeds import derive_seed
from uebench.compute.train import build_network
from uebench.jobs.datasets import load_dataset
from uebench.jobs.training_set import training_split
from uebench.planning.plan import Cell, Plan, Protect, plan_selection
from uebench.planning.selection import label_in_suite, select_components
from uebench.planning.suite_file import read_suite
from uebench.storage.store import Store


def planned(**options: list[str] | list[int]) -> Plan:
    nothing, plain = registry().build("noise", "none"), registry().build("breaker", "none")
    (selection,) = select_components(read_suite(str(TINY)), **options)  # type: ignore[arg-type]
    return plan_selection(selection, nothing, (plain,), [""])  # type: ignore[arg-type]


def cells(made: Plan) -> set[tuple[str, str]]:
    return {(cell.protect.noise.name, cell.chain[0].name) for cell in made.cells}


def test_references_are_planned_along() -> None:
    made = planned(noises=["rem"], breakers=["adv-linf"])
    assert cells(made) == {("none", "none"), ("none", "adv-linf"), ("rem", "none"), ("rem", "adv-linf")}
    assert len(made.protects) == 2


def test_the_product_is_full_and_each_noise_is_made_once() -> None:
    made = planned(seeds=[0, 1], targets=["smallcnn", "resnet8"])
    assert len(made.cells) == 3 * 2 * 2 * 2
    assert len(made.protects) == 3 * 2
    assert len({cell.key for cell in made.cells}) == len(made.cells)


def test_a_suites_defaults_hold_for_bare_names_and_give_way_to_the_users() -> None:
    (noise,) = select_components(read_suite(str(TINY)), noises=["rem:steps=3"])[0].noises
    assert noise.radius == 32 / 255
    assert noise.steps == 3  # type: ignore[attr-defined]
    assert label_in_suite(read_suite(str(TINY)), "noise", noise) == "rem:steps=3"


def test_keys_are_the_same_in_every_process() -> None:
    """A key that changes orphans every finished result, so a change must be meant: raise `plan.NUMBERS` for it."""
    first = planned(noises=["none"], breakers=["none"]).cells[0]
    assert first.identity == {
        "content": "",
        "dataset": "digits@1:contrast=0.5,test_images=1400,pad=1",
        "noise": "none@1",
        "breaker": "none@1",
        "target": "smallcnn@1:width=4",
        "recipe": "sgd@1:steps=60,batch=64,lr=0.1,momentum=0.9,weight_decay=0.0005,schedule=one-cycle,"
        "precision=fp32,evaluations=4",
        "protected": 1.0,
        "kind": "mixed",
        "seed": 0,
    }
    assert first.key == planned(noises=["none"], breakers=["none"]).cells[0].key
    assert len(first.key) == 32


def test_whatever_changes_a_number_changes_the_key() -> None:
    (cell,) = planned(noises=["none"], breakers=["none"]).cells
    noise, target = registry().build("noise", "em"), registry().build("target", "smallcnn")
    assert isinstance(noise, Noise)
    assert isinstance(target, Target)
    protect = cell.protect
    others = [
        replace(cell, target=target),
        replace(cell, recipe=Recipe()),
        replace(cell, protected=0.5),
        replace(cell, protected=0.5, kind="clean-only"),
        *(
            replace(cell, protect=other)
            for other in (
                replace(protect, seed=1),
                replace(protect, fingerprint="x"),
                replace(protect, noise=noise),
                replace(protect, noise=replace(noise, radius=0.5)),
            )
        ),
    ]
    assert len({one.key for one in [cell, *others]}) == 9
    assert replace(protect, precision="bf16").key != protect.key
    assert Protect(protect.source, "", noise, "fp32", 0).key != protect.key


def test_a_version_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = planned(noises=["em"]).cells[-1]
    monkeypatch.setattr(type(before.protect.noise), "version", 2)
    after = planned(noises=["em"]).cells[-1]
    assert before.protect.noise == after.protect.noise
    assert before.key != after.key


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 1.0])
def test_the_protected_share_is_one_draw_for_all_noises_and_not_nested(share: float, store: Store) -> None:
    (cell,) = planned(noises=["none"], breakers=["none"]).cells
    data = load_dataset(cell.protect.source, "", store)
    released = 255 - data.train.images
    chosen = [
        training_split(
            Cell(replace(cell.protect, noise=noise), cell.chain, cell.target, cell.recipe, share), released, data
        )
        for noise in (cell.protect.noise, registry().build("noise", "em"))  # type: ignore[arg-type]
    ]
    assert torch.equal(chosen[0].images, chosen[1].images)
    protected = (chosen[0].images == released).flatten(1).all(1)
    assert int(protected.sum()) == round(share * len(released))
    rest = training_split(replace(cell, protected=share, kind="clean-only"), released, data)
    assert torch.equal(rest.images, data.train.images[~protected])
    assert torch.equal(rest.labels, data.train.labels[~protected])


def test_roles_have_seeds_of_their_own() -> None:
    seeds = {derive_seed(seed, role) for seed in range(100) for role in ("noise", "surrogate", "train", "filter")}
    assert len(seeds) == 400
    assert derive_seed(0, "train") == derive_seed(0, "train") < 2**32


def test_weights_do_not_depend_on_what_was_drawn_before() -> None:
    target = registry().build("target", "smallcnn")
    assert isinstance(target, Target)
    one = build_network(target, (3, 8, 8), 10, "fp32", torch.device("cpu"), 3)
    torch.rand(100)
    other = build_network(target, (3, 8, 8), 10, "fp32", torch.device("cpu"), 3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
