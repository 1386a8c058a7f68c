"""The grammar of the command line, and the two texts of a component."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uebench import Breaker, Component, Recipe, Target, UserError, parameter
from uebench.components.grammar import NAME_PATTERN, parse_component, parse_label, split_components
from uebench.components.registry import registry
from uebench.components.spec import (
    canonical_text,
    chain_alternatives,
    component_label,
    convert_value,
    format_number,
    format_value,
    make_chain,
)
from uebench.submission.restore_components import NotInstalled, restore_component


class Sample(Component):
    """A component with a parameter of every type."""

    name = "sample"
    radius: float = parameter(default=8 / 255, low=0, high=1)
    steps: int = parameter(default=10, low=1)
    flip: bool = True
    kind: Literal["soft", "hard"] = "soft"
    path: str = parameter(default="", identity=False)
    title: str = ""


def test_a_fraction_is_exact() -> None:
    assert convert_value("x", "radius", float, "8/255") == 8 / 255
    assert convert_value("x", "radius", float, "2.5/255") == float(Fraction("2.5") / 255)


@given(st.integers(0, 2000))
def test_multiples_of_1_255_are_written_as_such_and_read_back(multiple: int) -> None:
    value = multiple / 255
    assert convert_value("x", "radius", float, format_number(value)) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_survives_its_two_texts(value: float) -> None:
    assert convert_value("x", "radius", float, format_number(value)) == value
    assert convert_value("x", "radius", float, format_value(value, exact=True)) == value


def test_writing_a_default_or_leaving_it_out_is_the_same() -> None:
    build = registry().build
    assert build("noise", "rem") == build("noise", "rem:radius=8/255,draws=5")
    short, long = build("noise", "rem"), build("noise", "rem:surrogate=resnet18")
    assert canonical_text(short) == canonical_text(long)


def test_canonical_text_names_version_and_every_parameter_that_matters() -> None:
    assert canonical_text(Sample(path="/a")) == (
        "sample@1:radius=0.03137254901960784,steps=10,flip=true,kind=soft,title="
    )


def test_a_later_parameter_is_in_the_texts_only_where_it_differs() -> None:
    class Wider(Component):
        """A component that has been given parameters since."""

        name = "wider"
        old: int = 3
        new: int = parameter(default=1, later=True)
        network: Target = parameter(default="smallcnn", later=True)

    plain = registry().build("target", "smallcnn")
    narrow = registry().build("target", "smallcnn:width=8")
    assert canonical_text(Wider(network=plain)) == "wider@1:old=3"
    assert canonical_text(Wider(old=4, new=2, network=narrow)) == "wider@1:old=4,new=2,network=(smallcnn@1:width=8)"
    assert component_label(Wider(new=2, network=plain)) == "wider:new=2"


def test_recipes_have_the_text_that_published_keys_were_made_from() -> None:
    text = "sgd@1:steps=40000,batch=128,lr=0.1,momentum=0.9,weight_decay=0.0005,schedule=step,precision=fp32"
    assert canonical_text(Recipe()) == f"{text},evaluations=10"
    assert canonical_text(Recipe(optimiser="adamw")) == f"{text},evaluations=10,optimiser=adamw"


def test_label_shows_what_differs() -> None:
    assert component_label(Sample()) == "sample"
    assert component_label(Sample(radius=4 / 255, flip=False)) == "sample:radius=4/255,flip=false"
    assert component_label(Sample(steps=3), {"steps": 3}) == "sample"
    assert component_label(Sample(), {"steps": 3}) == "sample:steps=10"


def test_a_component_in_a_parameter_is_resolved_and_part_of_the_identity() -> None:
    narrow = registry().build("noise", "em:surrogate=(smallcnn:width=8)")
    assert isinstance(narrow.surrogate, Target)  # type: ignore[attr-defined]
    assert "surrogate=(smallcnn@1:width=8)" in canonical_text(narrow)
    assert canonical_text(narrow) != canonical_text(registry().build("noise", "em:surrogate=smallcnn"))


@given(st.text(alphabet="ab():=,+", max_size=12))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        name, parameters = parse_component(text)
    except UserError:
        return
    assert NAME_PATTERN.fullmatch(name)
    assert all((*parameters, *parameters.values()))


def test_parentheses_protect_separators() -> None:
    assert parse_component("folder:path=(/a,b:c+d),size=8") == ("folder", {"path": "/a,b:c+d", "size": "8"})


def test_several_components_in_a_parameter_stand_between_slashes() -> None:
    build = registry().build
    text = "best-of:of=none/(adv-linf:radius=8/255,steps=3)/jpeg"
    made = build("breaker", text)
    none, attack, jpeg = made.of  # type: ignore[attr-defined]
    assert (none.name, attack.radius, attack.steps, jpeg.name) == ("none", 8 / 255, 3, "jpeg")
    assert component_label(made) == text
    exact = canonical_text(made)
    assert exact.startswith("best-of@1:of=none@1/(adv-linf@1:radius=0.03137254901960784,method=pgd,steps=3,")
    assert exact.endswith("/(jpeg@1:quality=10),held_out=0.2")
    assert restore_component("breaker", exact) == made
    assert component_label(build("breaker", "best-of")) == "best-of"
    newer = exact.replace("jpeg@1", "jpeg@2")
    with pytest.raises(NotInstalled, match="jpeg has version 1 here, not 2"):
        restore_component("breaker", newer)


def test_the_outer_parentheses_go_only_where_they_belong_together() -> None:
    assert parse_component("x:a=(b:c=1)/(d:e=2)") == ("x", {"a": "(b:c=1)/(d:e=2)"})
    assert split_components("x", "a", "(b:c=1)/(d:e=2)/f") == ["b:c=1", "d:e=2", "f"]
    assert split_components("x", "a", "b:c=1") == ["b:c=1"]


@pytest.mark.parametrize("parts", [("jpeg",), ("jpeg:quality=9",), ("jpeg:quality=9", "none"), ("none", "jpeg")])
def test_a_series_of_any_length_survives_its_texts(parts: tuple[str, ...]) -> None:
    class Holder(Component):
        """Holds breakers."""

        name = "holder"
        held: tuple[Breaker, ...] = parameter(default="")

    breakers = tuple(registry().build("breaker", part) for part in parts)
    _, values = parse_component(component_label(Holder(held=breakers)))
    again = split_components("holder", "held", values["held"])
    assert tuple(registry().build("breaker", part) for part in again) == breakers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "best-of:of=none/adv-linf:radius=8/255",
            "'adv-linf:radius=8' in of is not a component; among others, write one",
        ),
        ("best-of:of=none//jpeg", "'' in of is not a component"),
        ("best-of:of=none/jpg", "unknown breaker 'jpg'; did you mean jpeg?"),
        ("best-of:of=jpeg", "`of` needs two breakers or more"),
        ("best-of:of=jpeg/none/jpeg", "jpeg is in `of` twice"),
        ("best-of:held_out=0", "held_out must be above 0"),
    ],
)
def test_a_series_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        registry().build("breaker", text)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("best-of", "best-of"), "at most one breaker that chooses, not best-of and best-of"),
        (("adv-linf", "best-of:of=none/adv-l2"), "at most one attack, not adv-linf and adv-l2"),
        (("best-of:of=none/best-of",), "best-of cannot choose best-of, which chooses itself"),
    ],
)
def test_a_chain_in_which_it_is_not_clear_what_is_chosen_is_refused(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_chain([registry().build("breaker", text) for text in texts])  # type: ignore[misc]


def test_what_is_chosen_takes_the_place_of_who_chooses() -> None:
    jpeg, none, grey, cut = (registry().build("breaker", name) for name in ("jpeg", "none", "grayscale", "cutmix"))
    chooser = registry().build("breaker", "best-of:of=none/grayscale")
    assert chain_alternatives((jpeg, chooser, cut)) == ((jpeg, cut), (jpeg, grey, cut))  # type: ignore[arg-type]
    assert chain_alternatives((chooser,)) == ((none,), (grey,))  # type: ignore[arg-type]
    assert chain_alternatives((jpeg,)) == ()  # type: ignore[arg-type]


def test_a_chain_drops_idle_members_and_refuses_two_attacks() -> None:
    build = registry().build
    none, attack = build("breaker", "none"), build("breaker", "adv-linf")
    assert isinstance(none, Breaker)
    assert isinstance(attack, Breaker)
    assert make_chain([none, attack]) == (attack,)
    assert make_chain([none]) == (none,)
    with pytest.raises(UserError, match="at most one attack, not adv-linf and adv-linf"):
        make_chain([attack, attack])


def test_a_value_outside_its_range_is_refused_in_code_too() -> None:
    with pytest.raises(UserError, match="steps must be at least 1, not 0"):
        Sample(steps=0)
    with pytest.raises(UserError, match="radius must be a finite number, not nan"):
        Sample(radius=float("nan"))


def test_components_are_values() -> None:
    assert Sample(steps=3) == Sample(steps=3)
    assert hash(Sample(steps=3)) == hash(Sample(steps=3))
    with pytest.raises(AttributeError):
        Sample().steps = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "head", "parameters"),
    [
        ("none@1", "none@1", {}),
        ("adv-linf@1:radius=0.5,method=pgd", "adv-linf@1", {"radius": "0.5", "method": "pgd"}),
        (
            "em:surrogate=(smallcnn:width=16,depth=2),steps=3",
            "em",
            {"surrogate": "(smallcnn:width=16,depth=2)", "steps": "3"},
        ),
    ],
)
def test_canonical_text_and_labels_come_apart_as_they_were_written(
    text: str, head: str, parameters: dict[str, str]
) -> None:
    assert parse_label(text) == (head, parameters)
