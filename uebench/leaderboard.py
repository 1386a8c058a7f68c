"""From results to ranks: `results.jsonl` is the record of truth, every other file of a board follows from it alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd

from uebench import result, spec
from uebench.api import UserError
from uebench.registry import registry
from uebench.result import Result
from uebench.selection import chain, describe, describe_chain
from uebench.store import write_whole
from uebench.suite import Suite

SEEDS = 3
"""Fewer seeds make an entry provisional."""
BUDGETS = (8, 16, 32)
"""L-inf budget classes, in 1/255."""
CLASSES = (*(f"L-inf {bound}/255" for bound in BUDGETS), "L2", "L0", "unbounded")
"""Budget classes, in the order in which they are shown; each is ranked by itself."""
COSTS = ("noise_l2", "psnr", "ssim", "noise_seconds", "train_seconds")


def read(path: Path) -> dict[str, Result]:
    """Return the records of a `results.jsonl` by key; a missing file has none. Raises `UserError` with the line."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    found: dict[str, Result] = {}
    for number, line in enumerate(lines, 1):
        one = result.parse(line, f"{path} line {number}")
        if one.key in found:
            raise UserError(f"{path} line {number}: key {one.key} stands there twice")
        found[one.key] = one
    return found


def merge(recorded: Mapping[str, Result], fresh: Iterable[Result]) -> tuple[dict[str, Result], list[str]]:
    """Add new records to those on record; where the numbers of a key differ the old stay and a line says so."""
    merged, conflicts = dict(recorded), []
    for one in fresh:
        old = merged.setdefault(one.key, one)
        if not old.same_numbers(one):
            conflicts.append(
                f"{one.noise} / {one.breaker} / {one.target} seed {one.seed}: {one.test_accuracy:.4f} here "
                f"({one.made_with['device']}), {old.test_accuracy:.4f} on record ({old.made_with['device']}); kept"
            )
    return merged, conflicts


def write(path: Path, results: Mapping[str, Result]) -> None:
    """Write records, sorted by key, one a line."""
    write_whole(path, "".join(results[key].line() + "\n" for key in sorted(results)).encode())


def budget(norm: str, linf: float) -> str:
    """Return the budget class of a noise: its norm, and for L-inf the largest change measured on the 8-bit images."""
    if norm in ("l2", "l0"):
        return norm.upper()
    for bound, name in zip(BUDGETS, CLASSES, strict=False):
        if norm == "linf" and round(linf * 255) <= bound:  # 8-bit images differ by whole steps
            return name
    return CLASSES[-1]


@dataclass(frozen=True)
class Board:
    """The tables of one comparable group of results: same data set, protected share and recipe."""

    title: str
    noises: pd.DataFrame
    breakers: pd.DataFrame


def rank(suite: Suite, results: Iterable[Result]) -> list[Board]:
    """Return the boards of a suite; raises `UserError` for a required component that does not exist."""
    records, groups = list(results), dict[tuple[Any, ...], list[Result]]()
    for one in records:
        texts = one.parameters
        group = (texts["dataset"], texts["content"], texts["recipe"], one.kind, -one.protected)
        groups.setdefault(group, []).append(one)
    clean = spec.canonical(registry().build("noise", "none"))
    boards = []
    for group in sorted(groups):
        *same, kind, share = group
        if kind == "mixed" and share > -1:  # the clean set is the reference for every share
            whole = groups.get((*same, kind, -1.0), [])
            groups[group] += [one for one in whole if one.parameters["noise"] == clean]
        boards.append(_Ranking(groups[group], *_required(suite.part(group[0].partition("@")[0])), suite.floor).board())
    return boards


def _required(part: Suite) -> tuple[dict[str, str], dict[str, str]]:
    """Return the labels of a cross product's required breakers and targets by canonical text."""
    chains = [chain(part, text) for text in part.required_breakers]
    breakers = {"+".join(spec.canonical(one) for one in made): describe_chain(part, made) for made in chains}
    built = [registry().build("target", text, part.defaults) for text in part.required_targets]
    return breakers, {spec.canonical(one): describe(part, "target", one) for one in built}


class _Ranking:
    """Ranks one group of results. Components go by canonical text; `names` has their labels."""

    def __init__(
        self, records: list[Result], breakers: Mapping[str, str], targets: Mapping[str, str], floor: float
    ) -> None:
        self.records, self.breakers, self.targets, self.floor = records, breakers, targets, floor
        self.names: dict[str, str] = {}
        self.scores: dict[tuple[str, str, str], dict[int, float]] = {}
        for one in records:
            noise, breaker, target = (one.parameters[part] for part in ("noise", "breaker", "target"))
            self.names |= {noise: one.noise, breaker: one.breaker, target: one.target}
            self.scores.setdefault((noise, breaker, target), {})[one.seed] = one.test_accuracy
        self.names |= {**breakers, **targets}
        self.clean, self.plain = (spec.canonical(registry().build(kind, "none")) for kind in ("noise", "breaker"))
        self.names |= {self.clean: "none", self.plain: "none"}
        self.others = sorted({chain for _, chain, _ in self.scores} - set(breakers), key=lambda text: self.names[text])

    def board(self) -> Board:
        noises = pd.DataFrame([self.noise(noise) for noise in sorted({noise for noise, *_ in self.scores})])
        noises = noises.assign(
            first=noises["status"] != "reference", place=noises["budget"].map(CLASSES.index)
        ).sort_values(["first", "place", "residual_protection", "noise"], ascending=[True, True, False, True])
        noises = noises.drop(columns=["first", "place"])
        placed = noises["status"].isin(["ranked", "provisional"])
        noises.loc[placed, "rank"] = noises[placed].groupby("budget").cumcount() + 1
        ranked = list(noises[placed]["parameters"])
        breakers = pd.DataFrame([self.breaker(chain, ranked) for chain in sorted([*self.breakers, *self.others])])
        breakers = breakers.sort_values(["recovered", "breaker"], ascending=[False, True])
        placed = breakers["recovered"].notna()
        breakers.loc[placed, "rank"] = range(1, int(placed.sum()) + 1)
        return Board(_title(self.records[0]), noises, breakers)

    def noise(self, noise: str) -> dict[str, Any]:
        """Return a noise's row: means over the seeds that all its required cells share, the worst breaker after."""
        pairs = [(breaker, target) for breaker in self.breakers for target in self.targets]
        needed = [(one, *pair) for one in {noise, self.clean} for pair in pairs]
        needed += [(self.clean, self.plain, target) for target in self.targets]
        seeds = set.intersection(*(set(self.scores.get(cell, {})) for cell in needed))
        lacking = sorted({" / ".join(self.names[text] for text in cell) for cell in needed if cell not in self.scores})
        own = [one for one in self.records if one.parameters["noise"] == noise]
        linf = max(one.noise_linf for one in own)
        return {
            "rank": None,
            "band": None,
            "noise": self.names[noise],
            "status": "unranked",
            "residual_protection": None,
            "residual_low": None,
            "residual_high": None,
            "same_breaker_gap": None,
            "worst_breaker": None,
            "seeds": len(seeds),
            **(self.protection(noise, seeds) if seeds else {}),
            **({"status": "reference"} if noise == self.clean else {}),
            "budget": budget(own[0].noise_norm, linf),
            "noise_linf": linf,
            **{name: _mean([getattr(one, name) for one in own]) for name in COSTS},
            "device": ", ".join(sorted({one.made_with["device"] for one in own})),
            "flags": ", ".join(sorted({flag for one in own for flag in one.flags})),
            "lacks": "; ".join(lacking) or ("" if seeds else "a seed that all required cells share"),
            "parameters": noise,
        }

    def protection(self, noise: str, seeds: set[int]) -> dict[str, Any]:
        """Return residual protection and same-breaker gap, on the target where each is lowest, and accuracies."""

        def scores(noise: str, breaker: str, target: str) -> list[float]:
            return [self.scores[noise, breaker, target][seed] for seed in sorted(seeds)]

        residuals, gaps, row = [], [], dict[str, float | None]()
        for target in self.targets:
            top = mean(scores(self.clean, self.plain, target))
            found = {breaker: mean(scores(noise, breaker, target)) for breaker in self.breakers}
            worst = max(found, key=lambda breaker: found[breaker])
            residuals.append((top - found[worst], self.names[worst]))
            for breaker in self.breakers:
                reference = mean(scores(self.clean, breaker, target))
                if reference >= self.floor * top:
                    gaps.append(reference - found[breaker])
        for breaker in [*self.breakers, *self.others]:
            name, there = (
                self.names[breaker],
                [self.scores.get((noise, breaker, target), {}) for target in self.targets],
            )
            if all(seeds <= set(found) for found in there):  # always so for a required one
                highest = max((scores(noise, breaker, target) for target in self.targets), key=mean)
                row[f"accuracy {name}"] = mean(highest)
                row[f"deviation {name}"] = stdev(highest) if len(highest) > 1 else None
        protection, worst = min(residuals)
        return {
            "status": "ranked" if len(seeds) >= SEEDS else "provisional",
            "residual_protection": protection,
            "same_breaker_gap": min(gaps, default=None),
            "worst_breaker": worst,
            **row,
        }

    def breaker(self, chain: str, ranked: Sequence[str]) -> dict[str, Any]:
        """Return a breaker's row: the mean accuracy it recovers over all ranked noises and required targets."""
        own = [one for one in self.records if one.parameters["breaker"] == chain]
        means = {
            (noise, target): mean(scores.values())
            for (noise, breaker, target), scores in self.scores.items()
            if breaker == chain
        }
        cells = [(noise, target) for noise in ranked for target in self.targets]
        lacking = sorted(f"{self.names[noise]} / {self.names[target]}" for noise, target in set(cells) - set(means))
        recovered = [means[cell] for cell in cells] if cells and not lacking else []
        return {
            "rank": None,
            "breaker": self.names[chain],
            "recovered": _mean(recovered),
            "lowest": min(recovered, default=None),
            "clean_accuracy": _mean([means.get((self.clean, target)) for target in self.targets]),
            "train_seconds": _mean([one.train_seconds for one in own]),
            "required": chain in self.breakers,
            "lacks": "; ".join(lacking),
            "parameters": chain,
        }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _title(one: Result) -> str:
    share = "" if one.protected == 1 else f", {one.protected:.0%} protected ({one.kind})"
    return f"{one.dataset}{share}, recipe {one.recipe}"
