"""What a bundle must state, and in which words a false one is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.submission.factory import (
    ACCEPT,
    BREAKER,
    CLEAN,
    EM,
    OTHER,
    REM,
    VERIFY,
    Change,
    Forger,
    accuracy,
    logged,
    manifest,
    put_on_board,
    renamed,
    results,
    set_to,
)
from uebench.storage.result import Result
from uebench.submission.manifest import Manifest


def noted(place: int, **fields: Any) -> Callable[[Forger], None]:
    """Change a line of the log."""

    def change(one: Forger) -> None:
        one.log = logged(one.results[0])
        one.log[place].update(fields)

    return change


def inside(part: str, **fields: Any) -> Change:
    return lambda one: one[part].update(fields)


def each(change: Change, key: bool = True, noise: str | None = None) -> Callable[[Forger], None]:
    """Change all results, or those of a noise; keys follow unless told otherwise."""
    return lambda one: one.each(change, key, noise)


def first(change: Change, noise: str = "em") -> Callable[[Forger], None]:
    """Change the first result of a noise, its key not."""
    return lambda one: change(next(result for result in one.results if result["noise"] == noise))


def says(**fields: Any) -> Callable[[Forger], None]:
    return lambda one: one.manifest.update(fields)


def within(part: str, **fields: Any) -> Callable[[Forger], None]:
    return lambda one: one.manifest[part].update(fields)


def only(keep: Callable[[dict[str, Any]], bool]) -> Callable[[Forger], None]:
    """Leave results out."""

    def change(one: Forger) -> None:
        one.results = [result for result in one.results if keep(result)]
        one.each(lambda result: None)

    return change


def named(label: str, kind: str = "noise") -> tuple[Callable[[Forger], None], str]:
    return each(
        set_to(**{kind: label}), noise="em"
    ), f"{label[:60]!r} is not a label of at most 300 letters, digits and"


def surplus(one: Forger) -> None:
    """Add cells of a breaker that nobody asked for."""
    more = [json.loads(result.line()) for result in results("em", breakers=[BREAKER])]
    one.results += [result for result in more if result["noise"] == "em"]
    one.each(lambda result: None)


def misnamed(one: Forger) -> None:
    one.results[0]["key"] = "<b>"
    one.results.sort(key=lambda result: str(result["key"]))


def other_seed(seed: int) -> Callable[[Forger], None]:
    return each(lambda one: one.update(seed=seed if one["seed"] == 0 else one["seed"]))


def begun(one: Forger) -> None:
    one.log = logged(one.results[0])[1:]


def second_noise(one: Forger) -> None:
    one.manifest["noises"] = [EM, REM]


TEXT = "is not the canonical text of a noise"
HOSTILE: dict[str, tuple[Callable[[Forger], None], str]] = {
    "another suite": (says(suite="demo"), "the bundle is of suite 'demo', not of 'tiny'"),
    "a path for a suite": (says(suite="../../x.toml"), "the bundle is of suite '../../x.toml', not of 'tiny'"),
    "results of another suite": (first(set_to(suite="demo")), "is of suite 'demo', not of 'tiny'"),
    "another recipe": (
        within("terms", recipe="sgd@1:steps=9"),
        "another version of suite tiny: recipe 'sgd@1:steps=9'",
    ),
    "another engine": (within("terms", numbers=99), "another version of suite tiny: numbers 99, here"),
    "another floor": (within("terms", floor=0.0), "another version of suite tiny: floor 0.0, here 0.5"),
    "fewer breakers": (within("terms", breakers=["none@1"]), "another version of suite tiny: breakers ['none@1']"),
    "an unknown data set": (says(dataset="digit@1"), "suite tiny has no data set 'digit'; did you mean digits?"),
    "another data set of the name": (
        says(dataset="digits@1:contrast=1.0,test_images=1400,pad=1"),
        "data set 'digits@1:contrast=1.0,test_images=1400,pad=1' is not that of suite tiny",
    ),
    "a text that is no data set": (says(dataset="<b>"), "'<b>' is not the canonical text of a dataset"),
    "other data": (lambda one: other_data(one), "the bundle is of other data: content 'abc', on the board ''"),
    "no noise": (says(noises=[]), "the bundle names no noise, one twice, or the clean set"),
    "the clean set as a noise": (says(noises=[CLEAN]), "the bundle names no noise, one twice, or the clean set"),
    "two noises at once": (second_noise, "the bundle hands in 2 noises at once; an entry is of one"),
    "a noise without a version": (renamed("mine:radius=0.1"), f"'mine:radius=0.1' {TEXT}"),
    "a noise of HTML": (renamed("<script>@1"), f"'<script>@1' {TEXT}"),
    "a noise of a formula": (renamed("=cmd()@1"), f"'=cmd()@1' {TEXT}"),
    "a noise with a parameter twice": (renamed("mine@1:a=1,a=2"), "a is given twice in 'mine:a=1,a=2'"),
    "a noise with open parentheses": (renamed("mine@1:a=(b"), "unbalanced parentheses in 'a=(b'"),
    "a required breaker": (says(breaker="none@1"), "breaker none is required in suite tiny; hand in the noise instead"),
    "a breaker that is none": (says(breaker="a b@1"), "'a b@1' is not the canonical text of a breaker"),
    "no submitter": (within("submitter", name="  "), "the bundle names no submitter"),
    "a submitter without end": (within("submitter", name="x" * 201), "the submitter's name: a text of 201 characters"),
    "a paper that is a program": (within("submitter", paper="javascript:alert(1)"), "not 'javascript:alert(1)'"),
    "a plug-in that took no part": (
        says(distributions=[{"name": "evil", "version": "1", "sha256": "0" * 64}]),
        "no result was made with evil '1'",
    ),
    "a plug-in that is a path": (
        says(distributions=[{"name": "../x", "version": "1", "sha256": "0" * 64}]),
        "'../x' with SHA-256 '0000000000000000",
    ),
    "a noise without hash": (says(released={}), "0 released noises for 1 noises and 3 seeds"),
    "a hash that is none": (says(released={"0" * 32: "x"}), "a released noise goes by a key of 32 digits"),
    "other seeds in the manifest": (says(seeds=[0]), "the manifest's seeds are not those of the results"),
    "other keys in the manifest": (says(keys=[]), "the manifest's keys are not those of the results"),
    "other devices in the manifest": (
        within("made_with", device=["a better one"]),
        "the manifest's made_with are not those of the results",
    ),
    "a key that does not follow": (each(inside("parameters", noise=REM), key=False), "the key does not follow from"),
    "a key of HTML": (misnamed, "result '<b>': the key does not follow from the parameters"),
    "no results": (only(lambda one: False), "the entry lacks "),
    "a cell missing": (
        only(lambda one: (one["noise"], one["breaker"], one["seed"]) != ("em", "adv-linf", 1)),
        "the entry lacks em / adv-linf / smallcnn seed 1",
    ),
    "a reference missing": (
        only(lambda one: (one["noise"], one["breaker"]) != ("none", "adv-linf")),
        "the entry lacks none / adv-linf / smallcnn seed 0; none / adv-linf / smallcnn seed 1",
    ),
    "a cell too many": (surplus, f"the bundle holds em / {BREAKER} / smallcnn, which the entry does not need"),
    "an unknown target": (
        each(lambda one: (inside("parameters", target="big@1")(one), one.update(target="big")), noise="em"),
        " / big, which the entry does not need",
    ),
    "an unknown recipe": (each(inside("parameters", recipe="sgd@1")), "has recipe 'sgd@1', the entry 'sgd@1:steps=60"),
    "chosen seeds": (
        only(lambda one: one["seed"] != 0),
        "seeds must be 0, 1, 2 and so on, so that nobody chooses them",
    ),
    "a seed out of range": (other_seed(2**32), "Expected `int` <= 4294967295 - at `$.seed`"),
    "a seed below 0": (other_seed(-1), "Expected `int` >= 0 - at `$.seed`"),
    "a share": (each(set_to(protected=0.5)), "is of a share of 0.5 ('mixed'), not of a wholly protected set"),
    "another kind": (each(set_to(kind="<i>")), "Invalid enum value '<i>' - at `$.kind`"),
    "a label of HTML": named("<img src=x onerror=alert(1)>"),
    "a label of a formula": named('=HYPERLINK("x")'),
    "a label of LaTeX": named(r"\input{x}"),
    "a label of markdown": named("[best](https://example.org)"),
    "a label of terminal markup": named("[red]em[/]"),
    "a label with a cell more": named("em | 99"),
    "no label": named(""),
    "a label without end": named("x" * 301),
    "a data set's label of HTML": named("<b>digits</b>", "dataset"),
    "another name for a noise": (each(set_to(noise="super"), noise="em"), "calls a noise 'super' that is called 'em'"),
    "the name of another noise": (renamed(OTHER, "none"), "calls a noise 'none', which is the name of another"),
    "two names for a noise": (
        lambda one: (renamed(OTHER, "mine")(one), first(set_to(noise="yours"), "mine")(one)),  # type: ignore[dict-item]
        "calls a noise 'mine' that is called 'yours'",
    ),
    "another name for a breaker": (first(set_to(breaker="weak")), "calls a breaker 'weak' that is called"),
    "another name for the recipe": (each(set_to(recipe="fast")), "calls a recipe 'fast' that is called 'sgd:steps=60"),
    "a parameter that it has not": (renamed(f"{EM},evil=1"), "noise em has no parameter 'evil'"),
    "a parameter that it lacks": (renamed("em@1:radius=0.12549019607843137"), "noise em lacks surrogate in 'em@1:"),
    "a parameter out of range": (
        renamed(EM.replace("steps=12", "steps=0")),
        "em: steps must be at least 1, not 0",
    ),
    "a parameter written otherwise": (renamed(EM.replace("steps=12", "steps=012")), "is not how it is written"),
    "a number that takes for ever": (
        renamed(EM.replace("lr=0.1", "lr=1e99999999/3")),
        "noise em: lr must be a decimal number, not '1e99999999/3'",
    ),
    "a path to be read": (
        renamed("file@1:path=/dev/zero,content=,radius=0.12549019607843137,norm=linf,kind=auto,tensor="),
        "is not a parameter: expected key=value",
    ),
    "a path to be read, well written": (
        renamed("file@1:path=/dev/zero,radius=0.12549019607843137"),
        "noise file: path is not part of a canonical text",
    ),
    "a noise over its radius": (
        renamed("mine@1:radius=0.0313725490196078", "mine"),
        "noise_linf 32/255 is over the radius",
    ),
    "a noise without a radius": (renamed("mine@1", "mine"), "radius must be a number"),
    "no whole steps": (first(set_to(noise_linf=0.1)), "noise_linf 0.1 is not a whole number of steps of 1/255"),
    "a noise beyond the pixels": (first(set_to(noise_linf=2.0)), "Expected `float` <= 1.0 - at `$.noise_linf`"),
    "a clean set that is changed": (
        first(set_to(noise_linf=1 / 255, noise_l2=1.0, psnr=50.0), "none"),
        "noise_linf 1/255 is over the radius 0",
    ),
    "a noise without a trace": (first(set_to(psnr=None)), "noise_linf, noise_l2, psnr and ssim contradict each other"),
    "a PSNR too low": (first(set_to(psnr=10.0)), "a PSNR of 10 dB is below what noise_linf 0.12549 allows"),
    "a norm of its own": (first(set_to(noise_norm="l7")), "there is no norm 'l7'"),
    "two noises under one seed": (first(set_to(psnr=21.0)), "differ in what they measured of the noise"),
    "a made-up accuracy": (first(accuracy(0.123456789)), "test accuracy 0.123456789 is no whole number of images"),
    "accuracies of no common test set": (first(accuracy(1 / 999_983)), "is no whole number of images in a test set"),
    "an end that is not the curve's": (first(set_to(test_accuracy=0.5)), "test_accuracy is 0.5"),
    "a best that is not the curve's": (
        first(set_to(best_test_accuracy=1.0)),
        "best_test_accuracy 1.0 is not the highest",
    ),
    "a curve of other steps": (first(lambda one: one["curve"].pop()), "the curve is of the steps [15, 30, 45], not of"),
    "a curve out of range": (
        first(lambda one: one["curve"][0].update(train_accuracy=1.5)),
        "Expected `float` <= 1.0 - at `$.curve[0].train_accuracy`",
    ),
    "a curve with more in it": (
        first(lambda one: one["curve"][0].update(script="x")),
        "unknown field `script` - at `$.curve[0]`",
    ),
    "an accuracy out of range": (first(set_to(test_accuracy=1.5)), "Expected `float` <= 1.0 - at `$.test_accuracy`"),
    "a parameter more": (
        first(inside("parameters", script="x")),
        "parameters must be of breaker, content,",
    ),
    "a flag of HTML": (first(set_to(flags=["<b>"])), "'<b>' is not a flag"),
    "flags that are no list": (first(set_to(flags="diverged")), "Expected `array`, got `str` - at `$.flags`"),
    "a PSNR of text": (first(set_to(psnr="high")), "Expected `float | null`, got `str` - at `$.psnr`"),
    "no device": (
        first(lambda one: one["made_with"].pop("device")),
        "missing required field `device`",
    ),
    "a device that is a table": (
        first(inside("made_with", device={})),
        "Expected `str`, got `object` - at `$.device`",
    ),
    "something else in made_with": (
        first(inside("made_with", more=[1])),
        "made_with: Expected `bool | int | str",
    ),
    "a record with more in it": (
        first(set_to(script="x")),
        "line 1: Object contains unknown field `script`",
    ),
    "less than no time": (
        first(set_to(train_seconds=-1.0)),
        "Expected `float` >= 0.0 - at `$.train_seconds`",
    ),
    "a future": (first(set_to(finished="2999-01-01T00:00:00+00:00")), "is in the future"),
    "a time of nowhere": (first(set_to(finished="2026-01-01T00:00:00")), "has no time zone"),
    "no time": (first(set_to(finished="soon")), "finished must be a date and time, not 'soon'"),
    "a log of no job": (noted(0, key="0" * 32), "the log of '00000000000000000000000000000000' is of no job"),
    "a log of HTML": (noted(0, key="<b>"), "the log of '<b>' is of no job of the bundle"),
    "a log without a beginning": (begun, "does not begin with a start"),
    "a log of another device": (noted(2, device="a better one"), "is of 'a better one', the result of 'a processor'"),
    "a log of other steps": (noted(1, of=99), "is at step 15 of 99; a network is trained for 60"),
    "a log beyond the end": (noted(1, step=61), "is at step 61 of 60; a network is trained for 60"),
    "a log of another accuracy": (noted(-1, test_accuracy=0.75), "has test_accuracy 0.75, the result 0."),
    "a log of another training": (noted(-1, train_accuracy=0.75), "has train_accuracy 0.75, the result 0.5"),
    "a log of no time": (noted(1, time="noon"), "'noon' is no time"),
    "a log of nowhere": (noted(1, time="2026-01-01T00:00:00"), "'2026-01-01T00:00:00' has no time zone"),
    "a log of the future": (noted(1, time="2999-01-01T00:00:00+00:00"), "'2999-01-01T00:00:00+00:00' is in the"),
    "a log of an unknown event": (noted(1, event="shell"), "log.jsonl line 2: Invalid value 'shell' - at `$.event`"),
    "a log with more in it": (noted(1, script="x"), "log.jsonl line 2: Object contains unknown field `script`"),
    "a log with an escape": (noted(0, device="\x1b[2J"), "log.jsonl line 1 holds a character that does not show"),
    "references that differ": (each(accuracy(0.5), noise="none"), "0.5000 claimed, 0."),
}


def other_data(one: Forger) -> None:
    one.manifest["content"] = "abc"
    one.each(inside("parameters", content="abc"))


@pytest.mark.parametrize("case", HOSTILE)
def test_a_bundle_that_does_not_hold_is_refused_in_its_own_words_and_nothing_is_written(
    case: str, em: list[Result], references: list[Result], refuse: Callable[..., None], tmp_path: Path
) -> None:
    put_on_board(tmp_path / "leaderboards", references)
    forger = Forger(tmp_path / "em.zip", em)
    change, expected = HOSTILE[case]
    change(forger)
    forger.write()
    refuse(*VERIFY, "--rerun", "1", expected=expected)
    refuse(*ACCEPT, expected=expected)


def test_every_refusal_has_words_of_its_own() -> None:
    words = [expected for _, expected in HOSTILE.values()]
    assert len(HOSTILE) > 90
    assert {one for one in words if words.count(one) > 1} == {"the bundle names no noise, one twice, or the clean set"}


def test_the_forger_makes_a_bundle_that_holds_when_nothing_is_changed(
    em: list[Result], call: Callable[..., str], tmp_path: Path
) -> None:
    """Otherwise every refusal above might have another reason."""
    forger = Forger(tmp_path / "em.zip", em)
    forger.write()
    output = call(*VERIFY)
    assert "log       of 0 of 12 results\n" in output
    assert output.endswith("badge     valid\n")
    forger.log = [*logged(forger.results[0]), *logged(forger.results[3])]
    forger.write()
    output = call(*VERIFY)
    assert "log       of 2 of 12 results\n" in output
    assert output.endswith("badge     valid\n")


def test_the_manifest_is_what_the_documentation_says() -> None:
    assert set(manifest(results("em", seeds=[0]), "em")) | {"members"} == set(Manifest.__struct_fields__)
