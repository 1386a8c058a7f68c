"""What is left of a noise, by the years in which the breakers against it were published."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.board.test_next_breaker import results_under_four_breakers
from tests.board.test_tables import board
from uebench.board.residual_years import YearResidual, residuals_by_year, undated_breakers
from uebench.board.rows import BreakerRow, NoiseRow


def made_noise(**residuals: float) -> NoiseRow:
    """Return a noise with these residuals by breaker."""
    row = next(row for row in board(results_under_four_breakers()).noises if row.noise == "rem")
    return replace(row, residuals=residuals)


def made_breakers(**years: int | None) -> list[BreakerRow]:
    """Return breakers with these years."""
    return [BreakerRow(breaker=name, parameters=f"{name}@1", required=False, year=year) for name, year in years.items()]


def test_each_year_has_the_strongest_breaker_published_until_then() -> None:
    noise = made_noise(none=0.9, late=0.2, weak=0.5, early=0.4, undated=0.1)
    breakers = made_breakers(none=None, late=2023, weak=2020, early=2018, undated=None, absent=2019)
    assert residuals_by_year(noise, breakers) == [
        YearResidual(None, 0.9, "none"),
        YearResidual(2018, 0.4, "early"),
        YearResidual(2020, 0.4, "early"),
        YearResidual(2023, 0.2, "late"),
    ]
    assert undated_breakers(noise, breakers) == ["undated"]


def test_breakers_of_one_year_share_a_row_and_the_strongest_is_named() -> None:
    breakers = made_breakers(first=2018, second=2018, third=2018)
    assert residuals_by_year(made_noise(first=0.5, second=0.3, third=0.4), breakers) == [
        YearResidual(2018, 0.3, "second")
    ]


def test_without_plain_training_the_first_paper_comes_first() -> None:
    assert residuals_by_year(made_noise(first=0.5), made_breakers(first=2018)) == [YearResidual(2018, 0.5, "first")]
    assert residuals_by_year(made_noise(), made_breakers(first=2018)) == []


def test_the_last_year_of_a_board_of_dated_breakers_has_the_best_known_residual() -> None:
    ranked = board(results_under_four_breakers())
    for row in ranked.rows_with_rank:
        last = residuals_by_year(row, ranked.breakers)[-1]
        assert last.residual == pytest.approx(row.residual_best_known)
        assert last.breaker == row.best_known_breaker
