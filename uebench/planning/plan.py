"""Turns a cross product into jobs with content keys; pure: reads no file, no clock and no device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from uebench.components.errors import UserError
from uebench.components.interfaces import Breaker, Noise, Source, Target
from uebench.components.recipe import Recipe
from uebench.components.spec import canonical_text, chain_alternatives
from uebench.planning.selection import Selection
from uebench.planning.suite import ShareKind

Precision = Literal["fp32", "tf32", "bf16"]
ENGINE_NUMBERS = 1
"""Raised when a change of the engine gives other numbers for the same components."""

_encode = json.JSONEncoder(sort_keys=True).encode


def content_key(identity: Mapping[str, Any]) -> str:
    """Return the key of a job: a hash of everything that its outcome depends on."""
    text = _encode({"numbers": ENGINE_NUMBERS, **identity})
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def cell_identity(parameters: Mapping[str, str], protected: float, kind: str, seed: int) -> dict[str, Any]:
    """Return everything that the result of a cell depends on; plans and records both know it."""
    return {**parameters, "protected": protected, "kind": kind, "seed": seed}


@dataclass(frozen=True)
class Victim:
    """Train one network on the clean set, plainly, for noises that are made against it.

    No target starts from its weights.
    """

    source: Source
    fingerprint: str
    target: Target
    recipe: Recipe
    seed: int

    @cached_property
    def key(self) -> str:
        """The content key."""
        return content_key(
            {
                "dataset": canonical_text(self.source),
                "content": self.fingerprint,
                "victim": canonical_text(self.target),
                "recipe": canonical_text(self.recipe),
                "seed": self.seed,
            }
        )

    @property
    def needs(self) -> tuple[Job, ...]:
        """The jobs that must be finished first: none."""
        return ()

    @property
    def protect(self) -> None:
        """The noise that the job belongs to: none, as noises share victims."""
        return None

    def passes(self) -> dict[Target, float]:
        """Return the passes of one image, forward and backward, through each network."""
        return {self.target: self.recipe.steps * self.recipe.batch}

    @property
    def precision(self) -> Precision:
        """The precision of the computation."""
        return self.recipe.precision


@dataclass(frozen=True)
class Protect:
    """Make one noise for one data set and release the protected images; shared by all breakers and targets."""

    source: Source
    fingerprint: str
    noise: Noise
    precision: Precision
    seed: int
    victims: tuple[Victim, ...] = ()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that the released images depend on."""
        return {
            "dataset": canonical_text(self.source),
            "content": self.fingerprint,
            "noise": canonical_text(self.noise),
            "precision": self.precision,
            "seed": self.seed,
            **({"victims": [victim.key for victim in self.victims]} if self.victims else {}),
        }

    @cached_property
    def key(self) -> str:
        """The content key."""
        return content_key(self.identity)

    @property
    def needs(self) -> tuple[Job, ...]:
        """The jobs that must be finished first."""
        return self.victims

    @property
    def protect(self) -> Protect:
        """The noise that the job belongs to: itself."""
        return self

    def passes(self) -> dict[Target, float]:
        """Return the passes of one image, forward and backward, through each network; empty where nobody knows."""
        try:
            count = self.source.count()
        except UserError:  # the data set is not here
            count = None
        return {} if count is None else dict(self.noise.passes(count))


@dataclass(frozen=True)
class Cell:
    """Train one network on released images and test it.

    `protected` is the share of protected images; `kind` says whether the others are there, clean (`mixed`),
    or left out together with the protected ones (`clean-only`).
    """

    protect: Protect
    chain: tuple[Breaker, ...]
    target: Target
    recipe: Recipe
    protected: float = 1.0
    kind: ShareKind = "mixed"

    @cached_property
    def parameters(self) -> dict[str, str]:
        """The canonical text of each component, and the fingerprint of the data set's content."""
        return {
            "content": self.protect.fingerprint,
            "dataset": canonical_text(self.protect.source),
            "noise": canonical_text(self.protect.noise),
            "breaker": "+".join(canonical_text(breaker) for breaker in self.chain),
            "target": canonical_text(self.target),
            "recipe": canonical_text(self.recipe),
        }

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on."""
        return cell_identity(self.parameters, self.protected, self.kind, self.protect.seed)

    @cached_property
    def key(self) -> str:
        """The content key."""
        return content_key(self.identity)

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """The trials by which a member of the chain chooses, in the order in which it names its chains."""
        shares = [choice.held_out for breaker in self.chain if (choice := breaker.choice())]
        return tuple(
            Trial(replace(self, chain=chain), share) for share in shares for chain in chain_alternatives(self.chain)
        )

    @property
    def needs(self) -> tuple[Job, ...]:
        """The jobs that must be finished first."""
        return (self.protect, *self.trials)

    @property
    def source(self) -> Source:
        """The data set."""
        return self.protect.source

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the data set's content."""
        return self.protect.fingerprint

    def passes(self) -> dict[Target, float]:
        """Return the passes of one image, forward and backward, through the network.

        Where a member of the chain chooses, the most that a choice can take.
        """
        chains = chain_alternatives(self.chain) or [self.chain]
        attacks = max(sum(breaker.passes() for breaker in chain) for chain in chains)
        return {self.target: self.recipe.steps * self.recipe.batch * (1 + attacks)}

    @property
    def precision(self) -> Precision:
        """The precision of the computation."""
        return self.recipe.precision


@dataclass(frozen=True)
class Trial:
    """Train the network of a cell without a share of its training images and test it on those, as they are released."""

    cell: Cell
    held_out: float

    @property
    def protect(self) -> Protect:
        """The noise of the cell."""
        return self.cell.protect

    @property
    def source(self) -> Source:
        """The data set."""
        return self.cell.source

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the data set's content."""
        return self.cell.fingerprint

    def passes(self) -> dict[Target, float]:
        """Return the passes of one image, forward and backward, through the network."""
        return self.cell.passes()

    @property
    def precision(self) -> Precision:
        """The precision of the computation."""
        return self.cell.precision

    @cached_property
    def key(self) -> str:
        """The content key."""
        return content_key({**self.cell.identity, "held_out": self.held_out})

    @property
    def needs(self) -> tuple[Job, ...]:
        """The job that must be finished first."""
        return self.cell.needs


Job = Victim | Protect | Trial | Cell


@dataclass(frozen=True)
class Plan:
    """Cells in order, the noises that they need, the victims of those, and trials; each once."""

    victims: Sequence[Victim]
    protects: Sequence[Protect]
    cells: Sequence[Cell]
    trials: Sequence[Trial] = ()

    @property
    def jobs(self) -> list[Job]:
        """Every job, after those it needs."""
        return [*self.victims, *self.protects, *self.trials, *self.cells]


def plan_protect(source: Source, content: str, noise: Noise, recipe: Recipe, seed: int) -> Protect:
    """Return the job that makes a noise, with the victims that it declares, trained by the recipe."""
    victims = tuple(Victim(source, content, target, recipe, seed) for target in noise.victims())
    return Protect(source, content, noise, recipe.precision, seed, victims)


def plan_selection(
    selection: Selection, nothing: Noise, plain: tuple[Breaker, ...], fingerprints: Sequence[str]
) -> Plan:
    """Return every job of a selection and its references.

    Unless the suite switches references off, the whole clean set (noise `nothing`) is trained on under every breaker,
    and every noise under no breaker (`plain`). Where protected images are left out (`clean-only`) the noise does not
    matter. `fingerprints` are those of the selection's sources, in order.
    """
    recipe = selection.recipe
    noises = [nothing] if selection.kind == "clean-only" else selection.noises
    variants = [(noise, share, selection.kind) for noise in noises for share in selection.protected]
    chains = selection.chains
    if selection.suite.references:
        variants = list(dict.fromkeys([(nothing, 1.0, "mixed"), *variants]))
        chains = list(dict.fromkeys([plain, *chains]))
    cells = [
        Cell(
            protect,
            chain,
            target,
            recipe,
            *((1.0, "mixed") if noise == nothing and kind == "mixed" else (share, kind)),
        )
        for source, content in zip(selection.sources, fingerprints, strict=True)
        for seed in selection.seeds
        for noise, share, kind in variants
        for protect in [plan_protect(source, content, noise, recipe, seed)]
        for target in selection.targets
        for chain in chains
    ]
    return plan_cells(cells)


def plan_cells(cells: Iterable[Cell]) -> Plan:
    """Return the plan of some cells, each once, and of everything they need."""
    unique = {cell.key: cell for cell in cells}
    protects = {cell.protect.key: cell.protect for cell in unique.values()}
    victims = {victim.key: victim for protect in protects.values() for victim in protect.victims}
    trials = {trial.key: trial for cell in unique.values() for trial in cell.trials}
    return Plan(list(victims.values()), list(protects.values()), list(unique.values()), list(trials.values()))
