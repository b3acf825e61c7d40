"""The margin is the upper end of a prediction interval over sources, and the bundled figures are the runs' own."""

import math
import random

import pytest

from memplanner.files.sandbox import profiles_dir
from memplanner.prediction.margin import FILE, STUDENT, margin_from, upper_end
from memplanner.validation import margins


def test_the_bundled_file_is_what_the_published_runs_come_to() -> None:
    assert (profiles_dir() / FILE).read_text(encoding="utf-8") == margins.text()


@pytest.mark.parametrize("freedom", range(1, len(STUDENT) + 1))
def test_the_quantiles_are_students(freedom: int) -> None:
    """Simpson's rule over the density from zero to the quantile."""
    constant = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    width, steps = STUDENT[freedom - 1], 2000
    values = [(1 + (width * i / steps) ** 2 / freedom) ** (-(freedom + 1) / 2) for i in range(steps + 1)]
    area = values[0] + values[-1] + 4 * sum(values[1:-1:2]) + 2 * sum(values[2:-1:2])
    assert constant * area * width / steps / 3 == pytest.approx(0.45, abs=1e-4)


@pytest.mark.parametrize(("between", "within"), [(0.03, 0.01), (0.01, 0.03), (0.02, 0.0)])
@pytest.mark.parametrize("sizes", [(6, 6), (4, 4, 4), (2, 5, 9, 3)])
def test_it_holds_for_a_run_of_one_source_more_19_times_in_20_or_more(
    between: float, within: float, sizes: tuple[int, ...]
) -> None:
    rng = random.Random(1)
    trials, held = 4000, 0
    for _ in range(trials):
        sources = {}
        for i, size in enumerate(sizes):
            mean = rng.gauss(0.01, between)
            sources[str(i)] = [rng.gauss(mean, within) for _ in range(size)]
        end = upper_end(sources)
        assert end is not None
        held += rng.gauss(rng.gauss(0.01, between), within) <= end
    assert held / trials >= 0.94  # four standard errors of 4000 trials below 19 in 20; it errs on the wide side


def test_by_hand() -> None:
    """Means 0.01 and 0.03: 0.02 + 6.314 · √(0.0002 · 1.5 + 0.0001 · (1 − 1/2))."""
    excesses = {"one": [0.005, 0.015], "other": [0.025, 0.035]}
    assert upper_end(excesses) == pytest.approx(0.02 + 6.314 * math.sqrt(0.0002 * 1.5 + 0.00005 * 0.5))


def test_one_source_says_nothing_of_another() -> None:
    assert upper_end({"one": [0.0, 0.1, 0.2]}) is None
    assert upper_end({}) is None


def test_a_kind_of_too_few_sources_takes_the_runs_of_all() -> None:
    kinds = {"LoRA": {"one": [0.0, 0.01], "other": [0.02]}, "full training": {"other": [0.04]}}
    lora, full, galore = (margin_from(kinds, kind) for kind in ("LoRA", "full training", "GaLore"))
    assert (lora.runs, lora.sources) == (3, 2)
    assert lora.share == upper_end(kinds["LoRA"])
    assert (full.runs, full.sources) == (galore.runs, galore.sources) == (0, 0)
    assert full.share == galore.share == upper_end({"one": [0.0, 0.01], "other": [0.02, 0.04]})


def test_runs_that_need_less_leave_no_negative_margin() -> None:
    assert margin_from({"LoRA": {"one": [-0.5], "other": [-0.5]}}, "LoRA").share == 0.0


def test_without_two_sources_there_is_no_margin() -> None:
    with pytest.raises(ValueError, match="two sources"):
        margin_from({"LoRA": {"one": [0.0]}}, "LoRA")
