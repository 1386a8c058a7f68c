"""Families of breakers: those that differ in one numeric parameter only, also in chains."""

from __future__ import annotations

from typing import Any

import pytest

from uebench.board.parameter_sweeps import BreakerFamily, breaker_families
from uebench.components.spec import canonical_text
from uebench.planning.selection import build_chain, chain_label_in_suite
from uebench.planning.suite import Suite

EMPTY_SUITE = Suite("", "")


def chains(*texts: str) -> dict[str, str]:
    """Return the labels of chains by their canonical text."""
    return {canonical(text): chain_label_in_suite(EMPTY_SUITE, build_chain(EMPTY_SUITE, text)) for text in texts}


def canonical(text: str) -> str:
    """Return the canonical text of a chain."""
    return "+".join(canonical_text(breaker) for breaker in build_chain(EMPTY_SUITE, text))


def summary(family: BreakerFamily) -> tuple[str, str, str, list[float]]:
    """Return label, breaker, parameter and sorted values of a family."""
    return family.label, family.breaker, family.parameter, sorted(family.values.values())


FAMILIES: dict[str, tuple[list[str], tuple[Any, ...]]] = {
    "a radius": (
        ["none", "adv-linf:radius=1/255", "adv-linf", "grayscale"],
        ("adv-linf", "adv-linf", "radius", [1 / 255, 4 / 255]),
    ),
    "beside another parameter": (
        ["adv-linf:steps=5,radius=1/255", "adv-linf:steps=5"],
        ("adv-linf:steps=5", "adv-linf", "radius", [1 / 255, 4 / 255]),
    ),
    "whole numbers": (["jpeg:quality=50", "jpeg:quality=70", "jpeg"], ("jpeg", "jpeg", "quality", [10, 50, 70])),
    "the second of a chain": (
        ["lowpass-median+adv-linf:radius=1/255", "lowpass-median+adv-linf:radius=2/255", "lowpass-median"],
        ("lowpass-median+adv-linf", "adv-linf", "radius", [1 / 255, 2 / 255]),
    ),
    "the first of a chain": (
        ["lowpass-median:size=5+adv-linf", "lowpass-median+adv-linf"],
        ("lowpass-median+adv-linf", "lowpass-median", "size", [3, 5]),
    ),
}


@pytest.mark.parametrize("case", FAMILIES)
def test_breakers_that_differ_in_one_number_are_a_family(case: str) -> None:
    texts, expected = FAMILIES[case]
    (family,) = breaker_families(chains(*texts))
    assert summary(family) == expected
    assert set(family.values) <= {canonical(text) for text in texts}


@pytest.mark.parametrize(
    "texts",
    [
        ["adv-linf", "none"],
        ["adv-linf", "adv-l2"],
        ["adv-linf:radius=1/255", "adv-linf:radius=2/255,steps=5"],
        ["adv-linf", "adv-linf:method=fgsm"],
        ["adv-l1", "adv-l1:exact=true"],
        ["lowpass-median+adv-linf:radius=1/255", "lowpass-median:size=5+adv-linf:radius=2/255"],
        ["lowpass-median+adv-linf:radius=1/255", "adv-linf:radius=2/255"],
        ["lowpass-median+adv-linf:radius=1/255", "adv-linf:radius=2/255+lowpass-median"],
    ],
    ids="+".join,
)
def test_other_breakers_are_no_family(texts: list[str]) -> None:
    assert breaker_families(chains(*texts)) == []


def test_a_new_version_is_another_breaker() -> None:
    first, second = chains("adv-linf:radius=1/255", "adv-linf:radius=2/255")
    assert len(breaker_families({first: "", second: ""})) == 1
    assert breaker_families({first: "", second.replace("@1", "@2"): ""}) == []


def test_a_grid_of_two_parameters_gives_families_over_both() -> None:
    grid = [f"adv-linf:radius={radius}/255,steps={steps}" for radius in (1, 2) for steps in (3, 5)]
    families = breaker_families(chains(*grid))
    assert [(label, parameter, values) for label, _, parameter, values in map(summary, families)] == [
        ("adv-linf:steps=3", "radius", [1 / 255, 2 / 255]),
        ("adv-linf:steps=5", "radius", [1 / 255, 2 / 255]),
        ("adv-linf:radius=1/255", "steps", [3, 5]),
        ("adv-linf:radius=2/255", "steps", [3, 5]),
    ]


@pytest.mark.parametrize(
    ("texts", "idle"),
    [
        (["adv-linf:radius=1/255", "adv-linf"], {"none": 0}),
        (["bitdepth:bits=4", "bitdepth"], {"none": 8}),
        (["lowpass-mean:size=5+adv-linf", "lowpass-mean+adv-linf"], {"adv-linf": 1}),
        (["lowpass-mean+adv-linf:radius=1/255", "lowpass-mean+adv-linf"], {"lowpass-mean": 0}),
        (["jpeg:quality=50", "jpeg"], {}),
        (["adv-linf:steps=5", "adv-linf"], {}),
        (["adv-linf:radius=0", "adv-linf"], {}),
    ],
)
def test_the_chain_without_the_breaker_has_the_neutral_value(texts: list[str], idle: dict[str, float]) -> None:
    """There is no such chain if the parameter has no neutral value, or if a breaker with that value was run."""
    (family,) = breaker_families(chains(*texts))
    assert family.idle == {canonical(text): value for text, value in idle.items()}


def test_the_axis_has_the_description_of_the_parameter() -> None:
    (family,) = breaker_families(chains("adv-l2:radius=1/255", "adv-l2"))
    assert family.axis == "L2 radius of the attack (norm of [0, 1] pixels)"


def test_a_breaker_that_is_not_installed_has_no_description_and_no_neutral_value() -> None:
    (family,) = breaker_families({f"gone@1:radius={value}": f"gone:radius={value}" for value in ("0.5", "1.0")})
    assert (family.axis, family.idle) == ("radius of gone", {})
    assert summary(family) == ("gone", "gone", "radius", [0.5, 1.0])
