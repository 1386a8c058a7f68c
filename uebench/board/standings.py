"""How each noise and breaker stands: a row of means over seeds first, the worst breaker after, and its interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uebench.board.groups import budget_class
from uebench.board.intervals import Values, confidence_interval, means_with_draws
from uebench.components.registry import idle_component
from uebench.storage.history import Rulings
from uebench.storage.result import Result

SEEDS = 3
"""Fewer seeds make an entry provisional."""
COSTS = ("noise_l2", "psnr", "ssim", "noise_seconds", "train_seconds", "peak_bytes")


class Standings:
    """The rows of one comparable group of results. Components go by canonical text; `names` has their labels."""

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
        self._tell_apart()
        trained = sorted({target for *_, target in self.scores}, key=lambda text: self.names[text])
        self.trained = [*self.targets, *(target for target in trained if target not in self.targets)]
        self.others = sorted({chain for _, chain, _ in self.scores} - set(breakers), key=lambda text: self.names[text])

    def _tell_apart(self) -> None:
        """Put the canonical text in place of a label that several of a kind have, as two versions of one have."""
        for place, kept in enumerate((set[str](), set(self.breakers), set(self.targets))):
            texts = sorted({cell[place] for cell in self.scores} - kept)
            shared = Counter(self.names[text] for text in [*texts, *kept])
            self.names |= {text: text for text in texts if shared[self.names[text]] > 1}

    def noise(self, noise: str) -> dict[str, Any]:
        """Return a noise's row, by the seeds that all its required cells share."""
        pairs = [(breaker, target) for breaker in self.breakers for target in self.targets]
        needed = [(text, *pair) for text in {noise, self.clean} for pair in pairs]
        needed += [(self.clean, self.plain, target) for target in self.targets]
        seeds = tuple(sorted(set.intersection(*(set(self.scores.get(cell, {})) for cell in needed))))
        lacking = sorted({" / ".join(self.names[text] for text in cell) for cell in needed if cell not in self.scores})
        own = self.own["noise", noise]
        linf = max(result.noise_linf for result in own)
        found = self.protection(noise, seeds) if seeds else {}
        flags = {flag for result in own for flag in result.flags}
        if noise != self.clean and (found.get("same_breaker_gap") or 0) < 0:
            flags.add("clean-below-protected")
        return {
            "rank": None,
            "band": None,
            "noise": self.names[noise],
            "status": "unranked",
            "residual_protection": None,
            "residual_low": None,
            "residual_high": None,
            "same_breaker_gap": None,
            "gap_low": None,
            "gap_high": None,
            "worst_breaker": None,
            "seeds": len(seeds),
            **found,
            **({"status": "reference"} if noise == self.clean else {}),
            **({"status": "withdrawn"} if noise in self.rulings.withdrawn else {}),
            "budget": budget_class(own[0].noise_norm, linf),
            "noise_linf": linf,
            **{name: _mean([getattr(result, name) for result in own]) for name in COSTS},
            **self.reached(noise),
            "device": ", ".join(sorted({result.made_with["device"] for result in own})),
            "flags": ", ".join(sorted(flags)),
            "lacks": "; ".join(lacking) or ("" if seeds else "a seed that all required cells share"),
            "ruling": self.ruling(noise, seeds),
            "parameters": noise,
        }

    def reached(self, noise: str) -> dict[str, float | None]:
        """Return what the required breaker that recovers most reaches on each target, over the seeds they share."""
        row = dict[str, float | None]()
        for target in self.trained:
            cells = [self.scores.get((noise, breaker, target), {}) for breaker in self.breakers]
            seeds = sorted(set.intersection(*map(set, cells)))
            highest = max(([cell[seed] for seed in seeds] for cell in cells), key=sum)
            row[f"target {self.names[target]}"] = float(np.mean(highest)) if seeds else None
            row[f"target-deviation {self.names[target]}"] = float(np.std(highest, ddof=1)) if len(seeds) > 1 else None
        return row

    def challengers(self, noise: str, seeds: tuple[int, ...]) -> list[str]:
        """Return the breakers accepted against a noise; they count by the seeds they have, so none is shaken off."""
        accepted = dict.fromkeys(self.rulings.challenges.get(noise, ()))
        return [breaker for breaker in accepted if breaker not in self.breakers and self.shared(noise, breaker, seeds)]

    def shared(self, noise: str, breaker: str, seeds: tuple[int, ...]) -> tuple[int, ...]:
        """Return those of some seeds for which a noise and the clean set have been under a breaker on every target."""
        cells = [
            self.scores.get((text, breaker, target), {}) for text in (noise, self.clean) for target in self.targets
        ]
        return tuple(seed for seed in seeds if all(seed in cell for cell in cells))

    def ruling(self, noise: str, seeds: tuple[int, ...]) -> str:
        """Return what maintainers decided about a noise: the reason of a withdrawal, or badge and challengers."""
        badge = self.rulings.badges.get((self.records[0].parameters["dataset"], noise), "")
        against = [f"also against {self.names[breaker]}" for breaker in self.challengers(noise, seeds)]
        return self.rulings.withdrawn.get(noise) or "; ".join(filter(None, [badge, *against]))

    def protection(self, noise: str, seeds: tuple[int, ...]) -> dict[str, Any]:
        """Return residual protection and same-breaker gap, on the target where each is lowest, and accuracies."""

        def scores(noise: str, breaker: str, seeds: tuple[int, ...] = seeds) -> Values:
            found = [[self.scores[noise, breaker, target][seed] for seed in seeds] for target in self.targets]
            return np.array(found)

        later = {breaker: self.shared(noise, breaker, seeds) for breaker in self.challengers(noise, seeds)}
        plain = means_with_draws(scores(self.clean, self.plain), seeds)  # targets, draws

        def drawn(noise: str) -> Values:  # breakers, targets, draws
            required = means_with_draws(np.stack([scores(noise, breaker) for breaker in self.breakers]), seeds)
            rest = [means_with_draws(scores(noise, breaker, there), there) for breaker, there in later.items()]
            return np.concatenate([required, *(np.broadcast_to(values, plain.shape)[None] for values in rest)])

        own, clean = drawn(noise), drawn(self.clean)
        residual = (plain - own.max(0)).min(0)
        counted = clean[..., :1] >= self.floor * plain[..., :1]
        gap = np.where(counted, clean - own, np.inf).min((0, 1))
        target = int((plain - own.max(0))[:, 0].argmin())
        row = dict[str, float | None]()
        for breaker in [*self.breakers, *self.others]:
            there = [self.scores.get((noise, breaker, target), {}) for target in self.targets]
            own_seeds = tuple(
                seed for seed in seeds if all(seed in scores_by_seed for scores_by_seed in there)
            )  # all for a required one
            if own_seeds:
                highest = max(scores(noise, breaker, own_seeds), key=np.mean)
                row[f"accuracy {self.names[breaker]}"] = float(highest.mean())
                row[f"deviation {self.names[breaker]}"] = float(highest.std(ddof=1)) if len(own_seeds) > 1 else None
        recovered = {name[9:]: value for name, value in row.items() if name.startswith("accuracy ")}
        top = max(recovered, key=lambda name: recovered[name] or 0)
        alone = any(len(there) < 2 for there in later.values())  # what is known of a single seed, nothing tells
        low, high = (None, None) if alone else confidence_interval(residual)
        gap_low, gap_high = (None, None) if alone else confidence_interval(gap)
        return {
            "status": "ranked" if len(seeds) >= SEEDS else "provisional",
            "residual_protection": float(residual[0]),
            "residual_low": low,
            "residual_high": high,
            "same_breaker_gap": float(gap[0]) if np.isfinite(gap[0]) else None,
            "gap_low": gap_low,
            "gap_high": gap_high,
            "worst_breaker": self.names[[*self.breakers, *later][int(own[:, target, 0].argmax())]],
            "highest_accuracy": recovered[top],
            "highest_breaker": top,
            **row,
        }

    def breaker(self, chain: str, ranked: Sequence[str]) -> dict[str, Any]:
        """Return a breaker's row: the mean accuracy it recovers over all ranked noises and required targets."""
        own = self.own.get(("breaker", chain), [])
        drawn = {
            (noise, target): means_with_draws(
                np.array([scores[seed] for seed in sorted(scores)]), tuple(sorted(scores))
            )
            for (noise, breaker, target), scores in self.scores.items()
            if breaker == chain and target in self.targets
        }
        cells = [(noise, target) for noise in ranked for target in self.targets]
        lacking = sorted(f"{self.names[noise]} / {self.names[target]}" for noise, target in set(cells) - set(drawn))
        recovered = [drawn[cell] for cell in cells] if cells and not lacking else []
        several = bool(recovered) and all(len(values) > 1 for values in recovered)
        low, high = confidence_interval(np.mean(recovered, 0)) if several else (None, None)
        plain = [
            self.scores.get((noise, self.plain, target), {}).get(seed) == accuracy
            for (noise, breaker, target), scores in self.scores.items()
            if breaker == chain and chain != self.plain
            for seed, accuracy in scores.items()
        ]
        return {
            "rank": None,
            "breaker": self.names[chain],
            "recovered": _mean([float(values[0]) for values in recovered]),
            "recovered_low": low,
            "recovered_high": high,
            "lowest": min((float(values[0]) for values in recovered), default=None),
            "clean_accuracy": _mean(
                [float(drawn[self.clean, target][0]) for target in self.targets if (self.clean, target) in drawn]
            ),
            "train_seconds": _mean([result.train_seconds for result in own]),
            "required": chain in self.breakers,
            "chosen": ", ".join(
                f"{name} ({count})"
                for name, count in Counter(result.chosen for result in own if result.chosen).most_common()
            ),
            "flags": "identity-breaker" if len(plain) > 1 and all(plain) else "",
            "lacks": "; ".join(lacking),
            "parameters": chain,
        }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
