"""What the report says of differences between results, and of what makes one doubtful."""

from __future__ import annotations

import re
from typing import Any

import pytest
from bench_results import make_result
from mvgpt_runtime.bench.report.markdown import markdown
from mvgpt_runtime.bench.report.page import page
from report_page import parse, rows, texts


def test_outliers_and_warm_ups_are_named() -> None:
    text = texts(parse(page([make_result(outlier=4)])))
    assert "run 4 is an outlier in first_time_to_first_token_ms" in text
    assert re.search(r"outlier: run 4, \d", text)
    assert "5 counted runs after 1 warm-up" in text


@pytest.mark.parametrize(
    ("change", "said", "spoils"),
    [
        ({"protocol__version": 2}, "Protocol version: 1 (A); 2 (B).", {"faster", "slower", "larger", "smaller"}),
        ({"protocol__prompt": "Why?"}, "First question: What happens in this video? (A); Why? (B).", {"8.6"}),
        ({"protocol__follow_up": "Why?"}, "Second question", set()),
        ({"protocol__video_sha256": "b" * 64}, "(A); bbbbbbbbbbbb (B).", set()),
        ({"protocol__n_frames": 8}, "Frames: 16 (A); 8 (B).", set()),
        ({"protocol__n_gen": 8}, "Decode steps at a depth: 32 (A); 8 (B).", set()),
        ({"protocol__n_threads": 1}, "Threads: 4 (A); 1 (B).", set()),
        ({"protocol__low_memory": True}, "Low memory: no (A); yes (B).", set()),
        ({"model__bundle_sha256": "b" * 64}, "(A); bbbbbbbbbbbb (B).", set()),
        ({"memory_metric": "rss"}, "Memory metric: PSS (A); RSS (B). Not to be compared: peak memory.", set()),
        ({"recipe": "int8"}, "Recipe: mobile (A); int8 (B).", set()),
        ({"repeats": 3}, "Runs: 5 counted runs after 1 warm-up (A); 3 counted runs after 1 warm-up (B).", set()),
        ({"cold": False}, "Cold load: from the disk (A); not measured", set()),
        ({"environment__power__low_power_mode": True}, "Low-power mode: off (A); on (B).", set()),
    ],
)
def test_what_differs_is_said(change: dict[str, Any], said: str, spoils: set[str]) -> None:
    results = [make_result(), make_result(**change)]
    assert said in texts(parse(page(results)))
    assert said.split(":")[0] in markdown(results)
    assert said not in texts(parse(page([results[0]] * 2)))


@pytest.mark.parametrize(
    ("change", "compared"),
    [
        ({}, [True, True, True, True, True, True]),
        ({"protocol__version": 2}, [False] * 6),
        ({"protocol__prompt": "Why?"}, [False, False, False, True, True, True]),
        ({"protocol__video_sha256": "b" * 64}, [False, False, False, True, True, True]),
        ({"protocol__n_gen": 8}, [True, True, True, False, False, True]),
        ({"memory_metric": "rss"}, [True, True, True, True, True, False]),
        ({"depths": (128, 2438)}, [True, True, True, False, True, True]),
    ],
)
def test_ratios_are_only_given_where_they_mean_something(change: dict[str, Any], compared: list[bool]) -> None:
    row = rows(parse(page([make_result(), make_result(seed=5, slower=2, **change)])), "headline")[2]
    assert [bool(re.search(r"× (slower|larger)", cell)) for cell in row[1:7]] == compared
    if not change:
        assert "2." in row[1].split("×")[0].split()[-1]


def test_a_difference_within_the_spread_is_none() -> None:
    row = rows(parse(page([make_result(seed=1), make_result(seed=1, slower=1.002)])), "headline")[2]
    assert "same within spread" in row[1]


def test_warnings_of_one_result() -> None:
    said = texts(
        parse(
            page(
                [
                    make_result(
                        repeats=2,
                        device__kind="emulator",
                        cold=False,
                        environment__load_average=20.0,
                        environment__power={
                            "source": "battery",
                            "battery_percent": 20,
                            "low_power_mode": True,
                            "governor": "powersave",
                        },
                        environment__thermal_after={"status": "severe", "temperature_c": None},
                    )
                ]
            )
        )
    )
    for part in (
        "an emulator",
        "only 2 counted runs",
        "load average 20.0 on 9 cores",
        "on battery",
        "in low-power mode",
        "governor powersave",
        "from none to severe",
        "no cold load",
    ):
        assert part in said, part


def test_aggregates_that_the_runs_do_not_give_are_said_and_not_shown() -> None:
    result = make_result()
    faster = result.aggregates["energy_j"].model_copy(update={"median": 123456.0})
    text = texts(parse(page([result.model_copy(update={"aggregates": result.aggregates | {"energy_j": faster}})])))
    assert "are not what its runs give" in text
    assert "123,456" not in text
    assert "are not what its runs give" not in texts(parse(page([result])))
