"""Computes the row of each noise and breaker: means over seeds, then the worst breaker, and intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from uebench.board.copied_results import copied_noises
from uebench.board.groups import budget_class
from uebench.board.intervals import Values, confidence_interval, means_with_draws
from uebench.board.rows import COSTS, BreakerRow, NoiseRow, RowStatus, SeedMean, mean_of_known, median_of_known
from uebench.components.chain_classes import chain_threat, chain_year
from uebench.components.registry import idle_component
from uebench.storage.history import Rulings
from uebench.storage.result import Result

SEEDS = 3
"""Fewest seeds of a ranked entry; an entry with fewer is provisional."""


class Standings:
    """The rows of one comparable group of results.

    Components go by canonical text; `labels` has their labels. `accuracies` maps (noise, breaker, target) to accuracies
    by seed. `no_noise` and `no_breaker` are the components that change nothing.
    """

    def __init__(
        self,
        records: list[Result],
        breakers: Mapping[str, str],
        targets: Mapping[str, str],
        floor: float,
        rulings: Rulings,
    ) -> None:
        self.records, self.required_breakers, self.required_targets = records, breakers, targets
        self.floor, self.rulings = floor, rulings
        self.labels: dict[str, str] = {}
        self.accuracies: dict[tuple[str, str, str], dict[int, float]] = {}
        self.noise_results: dict[str, list[Result]] = {}
        self.breaker_results: dict[str, list[Result]] = {}
        for result in records:
            noise, breaker, target = (result.parameters[part] for part in ("noise", "breaker", "target"))
            self.labels |= {noise: result.noise, breaker: result.breaker, target: result.target}
            self.accuracies.setdefault((noise, breaker, target), {})[result.seed] = result.test_accuracy
            self.noise_results.setdefault(noise, []).append(result)
            self.breaker_results.setdefault(breaker, []).append(result)
        self.labels |= {**breakers, **targets}
        self.no_noise, self.no_breaker = idle_component("noise"), idle_component("breaker")
        self.labels |= {self.no_noise: "none", self.no_breaker: "none"}
        self._replace_shared_labels()
        other_targets = {target for *_, target in self.accuracies} - set(targets)
        other_breakers = {breaker for _, breaker, _ in self.accuracies} - set(breakers)
        self.all_targets = [*targets, *sorted(other_targets, key=lambda text: self.labels[text])]
        self.all_breakers = [*breakers, *sorted(other_breakers, key=lambda text: self.labels[text])]

    @cached_property
    def noises(self) -> list[str]:
        """The canonical text of every noise in the record."""
        return sorted({noise for noise, *_ in self.accuracies})

    @cached_property
    def _copied_noises(self) -> dict[str, list[str]]:
        listed = (result for result in self.records if result.parameters["noise"] not in self.rulings.withdrawn)
        return copied_noises(listed, self.no_noise)

    @cached_property
    def _detectable_from(self) -> float:
        """The separability from which a noise is detectable: above that of clean images and above plain training.

        It is 1, which nothing exceeds, where either is unknown.
        """
        cells = (self.accuracies.get((self.no_noise, self.no_breaker, target), {}) for target in self.required_targets)
        clean = [result.separability_released for result in self.noise_results.get(self.no_noise, [])]
        plain = max((accuracy for cell in cells for accuracy in cell.values()), default=1.0)
        known = [value for value in clean if value is not None]
        return max(plain, max(known, default=1.0))

    def _replace_shared_labels(self) -> None:
        """Use the canonical text as label where components of a kind share one, such as two versions of a noise.

        Required components keep their label.
        """
        for index, required in enumerate((set[str](), set(self.required_breakers), set(self.required_targets))):
            texts = sorted({cell[index] for cell in self.accuracies} - required)
            counts = Counter(self.labels[text] for text in [*texts, *required])
            self.labels |= {text: text for text in texts if counts[self.labels[text]] > 1}

    def common_seeds(self, noise: str) -> tuple[int, ...]:
        """Return the seeds that all required cells of a noise share, including those of the clean reference."""
        seeds = (set(self.accuracies.get(cell, {})) for cell in self._required_cells(noise))
        return tuple(sorted(set.intersection(*seeds)))

    def _required_cells(self, noise: str) -> list[tuple[str, str, str]]:
        pairs = [(breaker, target) for breaker in self.required_breakers for target in self.required_targets]
        cells = [(text, *pair) for text in {noise, self.no_noise} for pair in pairs]
        return cells + [(self.no_noise, self.no_breaker, target) for target in self.required_targets]

    def noise_row(self, noise: str) -> NoiseRow:
        """Return a noise's row without its rank, from the seeds that all its required cells share."""
        seeds = self.common_seeds(noise)
        missing_cells = sorted(
            {
                " / ".join(self.labels[text] for text in cell)
                for cell in self._required_cells(noise)
                if cell not in self.accuracies
            }
        )
        results = self.noise_results[noise]
        linf = max(result.noise_linf for result in results)
        protection = self._protection(noise, seeds) if seeds else {}
        costs: dict[str, Any] = {
            name: summarise([getattr(result, name) for result in results]) for name, summarise in COSTS.items()
        }
        flags = {flag for result in results for flag in result.flags}
        if noise != self.no_noise and (protection.get("same_breaker_gap") or 0) < 0:
            flags.add("clean-below-protected")
        if (costs["separability_released"] or 0) > self._detectable_from:
            flags.add("linearly-separable")
        if noise in self._copied_noises:
            flags.add("same-results-as-another")
        status: RowStatus = "unranked"
        if seeds:
            status = "ranked" if len(seeds) >= SEEDS else "provisional"
        if noise == self.no_noise:
            status = "reference"
        if noise in self.rulings.withdrawn:
            status = "withdrawn"
        return NoiseRow(
            noise=self.labels[noise],
            parameters=noise,
            status=status,
            seeds=len(seeds),
            budget=budget_class(results[0].noise_norm, linf),
            noise_linf=linf,
            targets=self._target_accuracies(noise),
            device=", ".join(sorted({result.made_with["device"] for result in results})),
            flags=tuple(sorted(flags)),
            lacks="; ".join(missing_cells) or ("" if seeds else "a seed that all required cells share"),
            ruling=self._ruling(noise, seeds),
            **protection,
            **costs,
        )

    def _target_accuracies(self, noise: str) -> dict[str, SeedMean]:
        """Return, for each target, the highest accuracy under a required breaker."""
        accuracies = dict[str, SeedMean]()
        for target in self.all_targets:
            cells = [self.accuracies.get((noise, breaker, target), {}) for breaker in self.required_breakers]
            seeds = sorted(set.intersection(*map(set, cells)))
            if seeds:
                highest = max(([cell[seed] for seed in seeds] for cell in cells), key=sum)
                accuracies[self.labels[target]] = _mean_over_seeds(np.array(highest))
        return accuracies

    def _challengers(self, noise: str, seeds: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the breakers accepted against a noise, each with the seeds that it shares with the noise.

        A breaker counts even if it has fewer seeds than the noise.
        """
        accepted = [
            breaker for breaker in self.rulings.challenges.get(noise, ()) if breaker not in self.required_breakers
        ]
        challengers = {breaker: self._shared_seeds(noise, breaker, seeds) for breaker in accepted}
        return {breaker: shared for breaker, shared in challengers.items() if shared}

    def _shared_seeds(self, noise: str, breaker: str, seeds: tuple[int, ...]) -> tuple[int, ...]:
        """Return the seeds for which a noise and the clean set have the breaker's cells on every required target."""
        cells = [
            self.accuracies.get((text, breaker, target), {})
            for text in (noise, self.no_noise)
            for target in self.required_targets
        ]
        return tuple(seed for seed in seeds if all(seed in cell for cell in cells))

    def _ruling(self, noise: str, seeds: tuple[int, ...]) -> str:
        """Return the ruling on a noise: the reason of its withdrawal, or its badge and the accepted breakers."""
        badge = self.rulings.badges.get((self.records[0].parameters["dataset"], noise), "")
        challengers = [f"also against {self.labels[breaker]}" for breaker in self._challengers(noise, seeds)]
        return self.rulings.withdrawn.get(noise) or "; ".join(filter(None, [badge, *challengers]))

    def _cell_values(self, noise: str, breaker: str, seeds: tuple[int, ...]) -> Values:
        """Return the accuracies (required targets, seeds) of a noise under a breaker."""
        return np.array(
            [[self.accuracies[noise, breaker, target][seed] for seed in seeds] for target in self.required_targets]
        )

    def comparison_values(self, noises: Sequence[str]) -> Values | None:
        """Return the values (noises, required cells, seeds) for `rank_sets`; None for fewer than two shared seeds.

        A value is the accuracy on protected images minus that of plain training on clean images. The cells of a breaker
        accepted against some noises are NaN for the other noises.
        """
        if not noises:
            return None
        noise_seeds = {noise: self.common_seeds(noise) for noise in noises}
        challengers = {noise: self._challengers(noise, noise_seeds[noise]) for noise in noises}
        challenger_seeds = [seeds for breakers in challengers.values() for seeds in breakers.values()]
        seeds = tuple(sorted(set.intersection(*map(set, [*noise_seeds.values(), *challenger_seeds]))))
        if len(seeds) < 2:
            return None
        plain_clean = self._cell_values(self.no_noise, self.no_breaker, seeds)
        accepted = sorted({breaker for breakers in challengers.values() for breaker in breakers})
        rows = []
        for noise in noises:
            cells = [self._cell_values(noise, breaker, seeds) - plain_clean for breaker in self.required_breakers]
            for breaker in accepted:
                if breaker in challengers[noise]:
                    cells.append(self._cell_values(noise, breaker, seeds) - plain_clean)
                else:
                    cells.append(np.full_like(plain_clean, np.nan))
            rows.append(np.concatenate(cells))
        return np.stack(rows)

    def _protection(self, noise: str, seeds: tuple[int, ...]) -> dict[str, Any]:
        """Return residual protection and same-breaker gap, on the target where each is lowest, and accuracies."""
        challengers = self._challengers(noise, seeds)
        plain_clean = means_with_draws(
            self._cell_values(self.no_noise, self.no_breaker, seeds), seeds
        )  # targets, draws

        def breaker_means(noise: str) -> Values:  # breakers, targets, draws
            required = np.stack([self._cell_values(noise, breaker, seeds) for breaker in self.required_breakers])
            accepted = [
                means_with_draws(self._cell_values(noise, breaker, shared), shared)
                for breaker, shared in challengers.items()
            ]
            broadcast = (np.broadcast_to(means, plain_clean.shape)[None] for means in accepted)
            return np.concatenate([means_with_draws(required, seeds), *broadcast])

        protected, clean = breaker_means(noise), breaker_means(self.no_noise)
        residuals = plain_clean - protected.max(0)  # targets, draws
        residual = residuals.min(0)
        above_floor = clean[..., :1] >= self.floor * plain_clean[..., :1]
        gap = np.where(above_floor, clean - protected, np.inf).min((0, 1))
        target = int(residuals[:, 0].argmin())
        one_seed = any(len(shared) < 2 for shared in challengers.values())  # the deviation of one seed is unknown
        low, high = (None, None) if one_seed else confidence_interval(residual, -1, 1)
        gap_low, gap_high = (None, None) if one_seed else confidence_interval(gap, -1, 1)
        return {
            "residual_protection": float(residual[0]),
            "residual_low": low,
            "residual_high": high,
            "same_breaker_gap": float(gap[0]) if np.isfinite(gap[0]) else None,
            "gap_low": gap_low,
            "gap_high": gap_high,
            "worst_breaker": self.labels[
                [*self.required_breakers, *challengers][int(protected[:, target, 0].argmax())]
            ],
            **self._best_known(noise, seeds, plain_clean[:, 0]),
        }

    def _best_known(self, noise: str, seeds: tuple[int, ...], plain_clean: Values) -> dict[str, Any]:
        """Return the accuracy under every breaker, and the residual against the breaker that recovers most.

        `plain_clean` (targets,) has accuracies of plain training on clean images. A breaker counts with those of the
        seeds that it has.
        """
        accuracies, residuals = dict[str, SeedMean](), dict[str, float]()
        for breaker in self.all_breakers:
            cells = [self.accuracies.get((noise, breaker, target), {}) for target in self.required_targets]
            shared = tuple(seed for seed in seeds if all(seed in cell for cell in cells))
            if shared:
                values = self._cell_values(noise, breaker, shared)
                accuracies[self.labels[breaker]] = _mean_over_seeds(max(values, key=np.mean))
                residuals[breaker] = float((plain_clean - values.mean(1)).min())
        strongest = min(residuals, key=lambda breaker: residuals[breaker])
        dates = [
            result.finished[:10]
            for result in self.noise_results[noise]
            if result.parameters["breaker"] == strongest and result.parameters["target"] in self.required_targets
        ]
        return {
            "accuracies": accuracies,
            "residuals": {self.labels[breaker]: residual for breaker, residual in residuals.items()},
            "residual_best_known": residuals[strongest],
            "best_known_breaker": self.labels[strongest],
            "best_known_since": min(dates),
        }

    def _is_below_floor(self, chain: str, target: str) -> bool:
        """Return whether a breaker leaves less than the floor of what plain training reaches on clean images."""
        plain, own = (self.accuracies.get((self.no_noise, text, target), {}) for text in (self.no_breaker, chain))
        shared = sorted(set(plain) & set(own))
        return bool(shared) and sum(own[seed] for seed in shared) < self.floor * sum(plain[seed] for seed in shared)

    def breaker_row(self, chain: str, noises: Sequence[str]) -> BreakerRow:
        """Return a breaker's row without its rank: the mean accuracy over these noises and the required targets."""
        results = self.breaker_results.get(chain, [])
        means = {
            (noise, target): means_with_draws(
                np.array([by_seed[seed] for seed in sorted(by_seed)]), tuple(sorted(by_seed))
            )
            for (noise, breaker, target), by_seed in self.accuracies.items()
            if breaker == chain and target in self.required_targets
        }
        cells = [(noise, target) for noise in noises for target in self.required_targets]
        missing = sorted(f"{self.labels[noise]} / {self.labels[target]}" for noise, target in set(cells) - set(means))
        recovered = [means[cell] for cell in cells] if cells and not missing else []
        enough_seeds = bool(recovered) and all(
            len(self.accuracies[noise, chain, target]) >= SEEDS for noise, target in cells
        )
        low, high = confidence_interval(np.mean(recovered, 0), 0, 1) if enough_seeds else (None, None)
        same_as_plain = [
            self.accuracies.get((noise, self.no_breaker, target), {}).get(seed) == accuracy
            for (noise, breaker, target), by_seed in self.accuracies.items()
            if breaker == chain and chain != self.no_breaker
            for seed, accuracy in by_seed.items()
        ]
        flags = ["identity-breaker"] if len(same_as_plain) > 1 and all(same_as_plain) else []
        if any(self._is_below_floor(chain, target) for target in self.required_targets):
            flags.append("clean-below-floor")
        choices = Counter(result.chosen for result in results if result.chosen).most_common()
        return BreakerRow(
            breaker=self.labels[chain],
            parameters=chain,
            required=chain in self.required_breakers,
            threat=chain_threat(chain),
            year=chain_year(chain),
            recovered=mean_of_known([float(values[0]) for values in recovered]),
            recovered_low=low,
            recovered_high=high,
            lowest=min((float(values[0]) for values in recovered), default=None),
            clean_accuracy=mean_of_known(
                [
                    float(means[self.no_noise, target][0])
                    for target in self.required_targets
                    if (self.no_noise, target) in means
                ]
            ),
            train_seconds=median_of_known([result.train_seconds for result in results]),
            chosen=", ".join(f"{name} ({count})" for name, count in choices),
            flags=tuple(flags),
            lacks="; ".join(missing),
        )


def _mean_over_seeds(values: Values) -> SeedMean:
    return SeedMean(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None, len(values))
