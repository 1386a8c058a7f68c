"""Computes the row of each noise and breaker: means over seeds first, the worst breaker after, and intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np

from uebench.board.groups import budget_class
from uebench.board.intervals import Values, confidence_interval, means_with_draws
from uebench.board.rows import BreakerRow, NoiseRow, RowStatus, SeedMean
from uebench.components.registry import idle_component
from uebench.storage.history import Rulings
from uebench.storage.result import Result

SEEDS = 3
"""Fewer seeds make an entry provisional."""


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _median_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


COSTS = {
    "noise_l2": _mean_of_known,
    "psnr": _mean_of_known,
    "ssim": _mean_of_known,
    "noise_seconds": _median_of_known,
    "train_seconds": _median_of_known,
    "peak_bytes": _mean_of_known,
}
"""What a noise costs, and how it is summarised over cells; one stalled run does not change a median time."""


class Standings:
    """The rows of one comparable group of results.

    Components go by canonical text; `names` has their labels, `scores` the accuracy by (noise, breaker, target) and
    seed.
    """

    def __init__(
        self,
        records: list[Result],
        breakers: Mapping[str, str],
        targets: Mapping[str, str],
        floor: float,
        rulings: Rulings,
    ) -> None:
        self.records, self.breakers, self.targets, self.floor = records, breakers, targets, floor
        self.rulings = rulings
        self.names: dict[str, str] = {}
        self.scores: dict[tuple[str, str, str], dict[int, float]] = {}
        self.own: dict[tuple[str, str], list[Result]] = {}
        for result in records:
            noise, breaker, target = (result.parameters[part] for part in ("noise", "breaker", "target"))
            self.names |= {noise: result.noise, breaker: result.breaker, target: result.target}
            self.scores.setdefault((noise, breaker, target), {})[result.seed] = result.test_accuracy
            self.own.setdefault(("noise", noise), []).append(result)
            self.own.setdefault(("breaker", breaker), []).append(result)
        self.names |= {**breakers, **targets}
        self.clean, self.plain = idle_component("noise"), idle_component("breaker")
        self.names |= {self.clean: "none", self.plain: "none"}
        self._replace_shared_names()
        trained = sorted({target for *_, target in self.scores}, key=lambda text: self.names[text])
        self.trained = [*self.targets, *(target for target in trained if target not in self.targets)]
        self.others = sorted({chain for _, chain, _ in self.scores} - set(breakers), key=lambda text: self.names[text])

    @cached_property
    def noises(self) -> list[str]:
        """The canonical text of every noise on record."""
        return sorted({noise for noise, *_ in self.scores})

    def _replace_shared_names(self) -> None:
        """Use the canonical text where several components of a kind have one label, as two versions of one have."""
        for index, kept in enumerate((set[str](), set(self.breakers), set(self.targets))):
            texts = sorted({cell[index] for cell in self.scores} - kept)
            shared = Counter(self.names[text] for text in [*texts, *kept])
            self.names |= {text: text for text in texts if shared[self.names[text]] > 1}

    def common_seeds(self, noise: str) -> tuple[int, ...]:
        """Return the seeds that all required cells of a noise share, those of the clean reference included."""
        return tuple(
            sorted(set.intersection(*(set(self.scores.get(cell, {})) for cell in self._required_cells(noise))))
        )

    def _required_cells(self, noise: str) -> list[tuple[str, str, str]]:
        pairs = [(breaker, target) for breaker in self.breakers for target in self.targets]
        cells = [(text, *pair) for text in {noise, self.clean} for pair in pairs]
        return cells + [(self.clean, self.plain, target) for target in self.targets]

    def noise_row(self, noise: str) -> NoiseRow:
        """Return a noise's row without its rank, by the seeds that all its required cells share."""
        seeds = self.common_seeds(noise)
        lacking = sorted(
            {
                " / ".join(self.names[text] for text in cell)
                for cell in self._required_cells(noise)
                if cell not in self.scores
            }
        )
        own = self.own["noise", noise]
        linf = max(result.noise_linf for result in own)
        protection = self._protection(noise, seeds) if seeds else {}
        flags = {flag for result in own for flag in result.flags}
        if noise != self.clean and (protection.get("same_breaker_gap") or 0) < 0:
            flags.add("clean-below-protected")
        status: RowStatus = "unranked"
        if seeds:
            status = "ranked" if len(seeds) >= SEEDS else "provisional"
        if noise == self.clean:
            status = "reference"
        if noise in self.rulings.withdrawn:
            status = "withdrawn"
        costs: dict[str, Any] = {
            name: summarise([getattr(result, name) for result in own]) for name, summarise in COSTS.items()
        }
        return NoiseRow(
            noise=self.names[noise],
            parameters=noise,
            status=status,
            seeds=len(seeds),
            budget=budget_class(own[0].noise_norm, linf),
            noise_linf=linf,
            targets=self._target_accuracies(noise),
            device=", ".join(sorted({result.made_with["device"] for result in own})),
            flags=tuple(sorted(flags)),
            lacks="; ".join(lacking) or ("" if seeds else "a seed that all required cells share"),
            ruling=self._ruling(noise, seeds),
            **protection,
            **costs,
        )

    def _target_accuracies(self, noise: str) -> dict[str, SeedMean]:
        """Return the accuracy on each target under the required breaker that recovers most there."""
        accuracies = dict[str, SeedMean]()
        for target in self.trained:
            cells = [self.scores.get((noise, breaker, target), {}) for breaker in self.breakers]
            seeds = sorted(set.intersection(*map(set, cells)))
            if seeds:
                highest = max(([cell[seed] for seed in seeds] for cell in cells), key=sum)
                accuracies[self.names[target]] = _mean_over_seeds(np.array(highest))
        return accuracies

    def _challengers(self, noise: str, seeds: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the breakers accepted against a noise, each with those of the seeds that it has.

        They count by the seeds that they have, so that a noise with more seeds does not escape them.
        """
        accepted = [breaker for breaker in self.rulings.challenges.get(noise, ()) if breaker not in self.breakers]
        challengers = {breaker: self._shared_seeds(noise, breaker, seeds) for breaker in accepted}
        return {breaker: shared for breaker, shared in challengers.items() if shared}

    def _shared_seeds(self, noise: str, breaker: str, seeds: tuple[int, ...]) -> tuple[int, ...]:
        """Return the seeds for which a noise and the clean set have the breaker's cells on every required target."""
        cells = [
            self.scores.get((text, breaker, target), {}) for text in (noise, self.clean) for target in self.targets
        ]
        return tuple(seed for seed in seeds if all(seed in cell for cell in cells))

    def _ruling(self, noise: str, seeds: tuple[int, ...]) -> str:
        """Return what maintainers decided about a noise: the reason of a withdrawal, or badge and challengers."""
        badge = self.rulings.badges.get((self.records[0].parameters["dataset"], noise), "")
        against = [f"also against {self.names[breaker]}" for breaker in self._challengers(noise, seeds)]
        return self.rulings.withdrawn.get(noise) or "; ".join(filter(None, [badge, *against]))

    def _cell_values(self, noise: str, breaker: str, seeds: tuple[int, ...]) -> Values:
        """Return accuracies (required targets, seeds)."""
        return np.array([[self.scores[noise, breaker, target][seed] for seed in seeds] for target in self.targets])

    def comparison_values(self, noises: Sequence[str]) -> Values | None:
        """Return what rank sets compare (noises, required cells, seeds); None where fewer than two seeds are shared.

        A value is the accuracy on protected images minus that of plain training on clean images. Cells of a breaker
        that was accepted against some noises are NaN for the others.
        """
        if not noises:
            return None
        own = {noise: self.common_seeds(noise) for noise in noises}
        challengers = {noise: self._challengers(noise, own[noise]) for noise in noises}
        counted = [*own.values(), *(seeds for breakers in challengers.values() for seeds in breakers.values())]
        seeds = tuple(sorted(set.intersection(*map(set, counted))))
        if len(seeds) < 2:
            return None
        plain = self._cell_values(self.clean, self.plain, seeds)
        accepted = sorted({breaker for breakers in challengers.values() for breaker in breakers})
        rows = []
        for noise in noises:
            cells = [self._cell_values(noise, breaker, seeds) - plain for breaker in self.breakers]
            for breaker in accepted:
                known = breaker in challengers[noise]
                cells.append(self._cell_values(noise, breaker, seeds) - plain if known else np.full_like(plain, np.nan))
            rows.append(np.concatenate(cells))
        return np.stack(rows)

    def _protection(self, noise: str, seeds: tuple[int, ...]) -> dict[str, Any]:
        """Return residual protection and same-breaker gap, on the target where each is lowest, and accuracies."""
        challengers = self._challengers(noise, seeds)
        plain = means_with_draws(self._cell_values(self.clean, self.plain, seeds), seeds)  # targets, draws

        def drawn(noise: str) -> Values:  # breakers, targets, draws
            cells = np.stack([self._cell_values(noise, breaker, seeds) for breaker in self.breakers])
            rest = [
                means_with_draws(self._cell_values(noise, breaker, shared), shared)
                for breaker, shared in challengers.items()
            ]
            broadcast = (np.broadcast_to(values, plain.shape)[None] for values in rest)
            return np.concatenate([means_with_draws(cells, seeds), *broadcast])

        own, clean = drawn(noise), drawn(self.clean)
        residual = (plain - own.max(0)).min(0)
        counted = clean[..., :1] >= self.floor * plain[..., :1]
        gap = np.where(counted, clean - own, np.inf).min((0, 1))
        target = int((plain - own.max(0))[:, 0].argmin())
        one_seed = any(len(shared) < 2 for shared in challengers.values())  # the spread of one seed is unknown
        low, high = (None, None) if one_seed else confidence_interval(residual)
        gap_low, gap_high = (None, None) if one_seed else confidence_interval(gap)
        return {
            "residual_protection": float(residual[0]),
            "residual_low": low,
            "residual_high": high,
            "same_breaker_gap": float(gap[0]) if np.isfinite(gap[0]) else None,
            "gap_low": gap_low,
            "gap_high": gap_high,
            "worst_breaker": self.names[[*self.breakers, *challengers][int(own[:, target, 0].argmax())]],
            **self._best_known(noise, seeds, plain[:, 0]),
        }

    def _best_known(self, noise: str, seeds: tuple[int, ...], plain: Values) -> dict[str, Any]:
        """Return the accuracy under every breaker, and the residual against the one that recovers most.

        `plain` (targets,) are accuracies of plain training on clean images. A breaker that is not required counts by
        the seeds that it has.
        """
        accuracies, residuals = dict[str, SeedMean](), dict[str, float]()
        for breaker in [*self.breakers, *self.others]:
            cells = [self.scores.get((noise, breaker, target), {}) for target in self.targets]
            shared = tuple(seed for seed in seeds if all(seed in cell for cell in cells))
            if shared:
                values = self._cell_values(noise, breaker, shared)
                accuracies[self.names[breaker]] = _mean_over_seeds(max(values, key=np.mean))
                residuals[breaker] = float((plain - values.mean(1)).min())
        strongest = min(residuals, key=lambda breaker: residuals[breaker])
        dates = [
            result.finished[:10]
            for result in self.own["noise", noise]
            if result.parameters["breaker"] == strongest and result.parameters["target"] in self.targets
        ]
        return {
            "accuracies": accuracies,
            "residual_best_known": residuals[strongest],
            "best_known_breaker": self.names[strongest],
            "best_known_since": min(dates),
        }

    def breaker_row(self, chain: str, placed: Sequence[str]) -> BreakerRow:
        """Return a breaker's row without its rank: the mean accuracy over all placed noises and required targets."""
        own = self.own.get(("breaker", chain), [])
        drawn = {
            (noise, target): means_with_draws(
                np.array([scores[seed] for seed in sorted(scores)]), tuple(sorted(scores))
            )
            for (noise, breaker, target), scores in self.scores.items()
            if breaker == chain and target in self.targets
        }
        cells = [(noise, target) for noise in placed for target in self.targets]
        lacking = sorted(f"{self.names[noise]} / {self.names[target]}" for noise, target in set(cells) - set(drawn))
        recovered = [drawn[cell] for cell in cells] if cells and not lacking else []
        several = bool(recovered) and all(len(values) > 1 for values in recovered)
        low, high = confidence_interval(np.mean(recovered, 0)) if several else (None, None)
        same_as_plain = [
            self.scores.get((noise, self.plain, target), {}).get(seed) == accuracy
            for (noise, breaker, target), scores in self.scores.items()
            if breaker == chain and chain != self.plain
            for seed, accuracy in scores.items()
        ]
        choices = Counter(result.chosen for result in own if result.chosen).most_common()
        return BreakerRow(
            breaker=self.names[chain],
            parameters=chain,
            required=chain in self.breakers,
            recovered=_mean_of_known([float(values[0]) for values in recovered]),
            recovered_low=low,
            recovered_high=high,
            lowest=min((float(values[0]) for values in recovered), default=None),
            clean_accuracy=_mean_of_known(
                [float(drawn[self.clean, target][0]) for target in self.targets if (self.clean, target) in drawn]
            ),
            train_seconds=_median_of_known([result.train_seconds for result in own]),
            chosen=", ".join(f"{name} ({count})" for name, count in choices),
            flags=("identity-breaker",) if len(same_as_plain) > 1 and all(same_as_plain) else (),
            lacks="; ".join(lacking),
        )


def _mean_over_seeds(values: Values) -> SeedMean:
    return SeedMean(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None, len(values))
