"""Parity: a sound bundle passes, and every planted mistake is caught and blamed on the step that makes it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from defects import DEFECTS, Plant
from mvgpt_export import check_parity
from mvgpt_export.checkpoint import save_checkpoint
from mvgpt_export.config import NAMED_CONFIGS
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_export.parity import Report, Row, compare
from mvgpt_export.parity.floors import FLOORS, limits
from mvgpt_export.parity.metrics import STEPS, distance, selected_equal, token_agreement
from mvgpt_export.parity.reference import both_inputs
from mvgpt_export.quant import RECIPES
from mvgpt_export.sources import open_source
from mvgpt_runtime import MvgptError, contract
from mvgpt_runtime.manifest import Bundle
from test_bundle import edit_manifest
from test_cli import run


def report_on(bundle: Bundle, model: VideoGPT) -> Report:
    return Report("", "", bundle.manifest.recipe, (), compare(bundle, model, both_inputs(bundle, None)))


def wrong_by_themselves(report: Report) -> tuple[str, ...]:
    """Steps that fail on good inputs, in data order."""
    failed = {row.step for row in report.rows if row.fed != "bundle" and not row.passed}
    return tuple(step for step in STEPS if step in failed)


@pytest.fixture(scope="module")
def sound(tiny_bundle: Bundle) -> Report:
    return check_parity(tiny_bundle.folder)


def test_a_sound_bundle_passes(sound: Report) -> None:
    assert sound.passed
    assert sound.first_failure is None
    assert sound.other_weights == ()
    assert sound.checkpoint == "random:tiny"


def test_every_step_is_compared_in_data_order(sound: Report) -> None:
    for inputs in ("seeded", "clip"):
        rows = [row for row in sound.rows if row.inputs == inputs]
        assert [row.step for row in rows if row.fed != "eager"] == list(STEPS)
        assert [row.step for row in rows if row.fed == "eager"] == list(contract.STAGE_NAMES)
    assert all(row.limits for row in sound.rows)


def test_the_inputs_differ(sound: Report) -> None:
    """Another clip, another text: not one set of numbers twice."""
    errors = [
        [r.metrics for r in sound.rows if r.inputs == name and r.step == "text_decoder"] for name in ("seeded", "clip")
    ]
    assert errors[0] != errors[1]


@pytest.mark.parametrize("plant", DEFECTS, ids=lambda plant: plant.__name__)
def test_a_defect_is_caught_and_blamed(tiny_bundle: Bundle, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_source("random:tiny").model
    plant(model, monkeypatch)
    report = report_on(tiny_bundle, model)
    assert wrong_by_themselves(report) == DEFECTS[plant]
    assert report.first_failure is not None
    assert report.first_failure.step == DEFECTS[plant][0]


# One weight of each stage, by its path in the eager model. The frame scorer has none.
WEIGHTS = {
    "image_encoder": "image_encoder.embeddings.class_embedding",
    "video_encoder": "video_encoder.layers.1.mixer.D_b",
    "image_projector": "image_projector.mlp.mlp.2.bias",
    "video_projector": "video_projector.peg.peg.0.weight",
    "token_embedding": "language_model.embed_tokens.weight",
    "text_decoder": "language_model.layers.2.self_attn.k_proj.weight",
}


@pytest.mark.parametrize("stage", WEIGHTS)
def test_one_number_of_a_weight(tiny_bundle: Bundle, stage: str) -> None:
    """Off by five standard deviations of the weight it is in."""
    model = open_source("random:tiny").model
    weight = model.get_parameter(WEIGHTS[stage])
    row = tiny_bundle.manifest.special_ids["<|im_start|>"] if stage == "token_embedding" else 0
    weight[row].view(-1)[0] += 5 * weight.std()
    # The head multiplies the embedding's table.
    expected = ("token_embedding", "text_decoder") if stage == "token_embedding" else (stage,)
    assert wrong_by_themselves(report_on(tiny_bundle, model)) == expected


def test_scores_and_selection_of_the_frame_scorer(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_source("random:tiny").model
    model.frame_scorer.largest = False
    report = report_on(tiny_bundle, model)
    assert wrong_by_themselves(report) == ("frame_scorer",)
    assert report.first_failure is not None
    assert report.first_failure.failed == ("selected_equal",)
    assert any("other key frames" in row.note for row in report.rows)

    model = open_source("random:tiny").model
    scores = model.frame_scorer.scores
    monkeypatch.setattr(model.frame_scorer, "scores", lambda x: scores(x * 0.5))
    report = report_on(tiny_bundle, model)
    assert wrong_by_themselves(report) == ("frame_scorer",)
    assert report.first_failure is not None
    assert "max_abs" in report.first_failure.failed


def test_what_accumulated_is_blamed_last() -> None:
    def row(step: str, fed: str, off: float) -> Row:
        return Row("clip", step, fed, {"max_abs": off}, {"max_abs": 1.0})

    rows = (row("image_encoder", "eager", 0.5), row("image_projector", "bundle", 2), row("text_decoder", "bundle", 9))
    first = Report("", "", "fp32", (), rows).first_failure
    assert first == rows[1]
    blamed = Report("", "", "fp32", (), (*rows, row("text_decoder", "eager", 2))).first_failure
    assert blamed is not None
    assert (blamed.step, blamed.fed) == ("text_decoder", "eager")


def test_metrics_equal_torch() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 40)).astype(np.float32)
    ta, tb = (torch.from_numpy(x).double() for x in (a, b))
    measured = distance(a, b)
    assert measured["cosine"] == pytest.approx(float(torch.cosine_similarity(ta.ravel(), tb.ravel(), dim=0)))
    assert measured["sqnr_db"] == pytest.approx(float(10 * torch.log10(tb.square().sum() / (ta - tb).square().sum())))
    agreement = token_agreement(a, b)
    kl = torch.nn.functional.kl_div(ta.log_softmax(-1), tb.log_softmax(-1), log_target=True, reduction="batchmean")
    assert agreement["kl_divergence"] == pytest.approx(float(kl))
    assert agreement["argmax_agreement"] == float((ta.argmax(-1) == tb.argmax(-1)).double().mean())
    assert token_agreement(b, b) == {"argmax_agreement": 1.0, "kl_divergence": 0.0}


def test_key_frames_up_to_ties() -> None:
    scores = np.array([[9.0, 8, 1, 2, 3], [5, 5, 7, 6, 6.1]])
    got, expected = np.array([[0, 1], [2, 3]]), np.array([[0, 1], [2, 4]])
    assert selected_equal(got, expected, scores, 0.05) == 0.75
    assert selected_equal(got, expected, scores, 0.2) == 1
    assert selected_equal(got[::-1], got, scores, 0.2) == 0


def test_nan_and_other_shapes_pass_nowhere() -> None:
    good = np.ones((3, 4), np.float32)
    for bad in (good * np.nan, good[:2]):
        metrics = distance(bad, good)
        row = Row(
            "clip", "image_encoder", "eager", metrics, {name: -1.0 if name != "max_abs" else 1e9 for name in metrics}
        )
        assert set(row.failed) == set(metrics)
        assert json.loads(json.dumps(row.as_dict(), allow_nan=False))["metrics"]["cosine"] is None
    assert distance(good * 0, good * 0)["sqnr_db"] == 200
    assert math.isfinite(distance(good * np.float32(1e30), good * 0)["sqnr_db"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_errors_may_not_shrink_on_the_way(recipe: str) -> None:
    """A floor for accumulated errors is never above the stage's own."""
    for stage in contract.STAGE_NAMES:
        own, accumulated = (
            limits(RECIPES[recipe], NAMED_CONFIGS["0.5b"], stage, fed, 1.0) for fed in ("eager", "bundle")
        )
        if "sqnr_db" in own:
            assert accumulated["sqnr_db"] <= own["sqnr_db"]
        assert set(FLOORS) >= {RECIPES[recipe].bits(stage)}
    # Of the likeliest token each stage by itself is held to one; behind 8-bit encoders ties fall either way.
    held = [
        "argmax_agreement" in limits(RECIPES[recipe], NAMED_CONFIGS["0.5b"], "text_decoder", fed, 1.0)
        for fed in ("eager", "bundle")
    ]
    assert held == {"fp32": [True] * 2, "fp16": [True] * 2, "int8": [True, False], "mobile": [False] * 2}[recipe]


def test_the_command_line(tiny_bundle: Bundle, tmp_path: Path) -> None:
    passed = run("parity", tiny_bundle.folder)
    assert passed.returncode == 0, passed.stderr
    assert "every stage agrees with random:tiny" in passed.stdout
    assert all(step in passed.stdout for step in STEPS)

    model = open_source("random:tiny").model
    model.get_parameter("image_projector.mlp.mlp.2.bias").mul_(1.05)
    save_checkpoint(model, tmp_path / "other")
    failed = run("parity", tiny_bundle.folder, "--checkpoint", tmp_path / "other", "--json")
    assert failed.returncode == 1, failed.stderr
    report = json.loads(failed.stdout)
    assert report["passed"] is False
    assert report["first_failing_stage"] == "image_projector"
    assert report["other_weights"] == ["image_projector"]
    assert report["recipe"] == "fp32"
    assert {row["step"] for row in report["rows"] if not row["passed"] and row["fed"] == "eager"} == {"image_projector"}

    missing = run("parity", tiny_bundle.folder, "--checkpoint", tmp_path / "none")
    assert missing.returncode == 2
    assert "no such checkpoint" in missing.stderr


def test_what_cannot_be_compared(tiny_bundle: Bundle, slim_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(MvgptError, match=r"sizes are not the bundle's[\s\S]*image_size 48[\s\S]*image_size 224"):
        check_parity(tiny_bundle.folder, slim_checkpoint)
    with pytest.raises(MvgptError, match=r"none\.mp4"):
        check_parity(tiny_bundle.folder, video=tmp_path / "none.mp4")


def test_a_checkpoint_that_moved(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "bundle"))
    edit_manifest(folder, lambda m: m["source"].update(checkpoint=str(tmp_path / "gone")))
    with pytest.raises(MvgptError, match=r"what the bundle was made from[\s\S]*gone[\s\S]*--checkpoint"):
        check_parity(folder)


@pytest.mark.slow  # lowering takes a minute or two
@pytest.mark.timeout(900)
@pytest.mark.parametrize("recipe", [name for name in RECIPES if RECIPES[name].rules])
def test_defects_of_quantized_bundles(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mvgpt_export import export_bundle

    bundle = export_bundle("random:tiny", tmp_path / recipe, recipe=recipe)  # which checks it
    four = RECIPES[recipe].bits("text_decoder") == 4  # whose rounding is larger than what either does to its logits
    for plant, steps in DEFECTS.items():
        if four:
            steps = tuple(step for step in steps if step != "text_decoder")
        model = open_source("random:tiny").model
        with monkeypatch.context() as patch:
            plant(model, patch)
            report = report_on(bundle, model)
        assert wrong_by_themselves(report) == steps, plant.__name__
