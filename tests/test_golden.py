"""The published implementation's numbers: the eager model reproduces them, and an fp32 bundle the eager model."""

from __future__ import annotations

import zlib
from pathlib import Path

import golden
import numpy as np
import pytest
from mvgpt_export import export_bundle, load_model
from mvgpt_runtime import Session
from mvgpt_runtime.contract import TRACE_KEYS
from tolerances import FP32_BUNDLE, GOLDEN

CASE = golden.recipe("slim_a")
EXPECTED = golden.expected("slim_a")
Trace = dict[str, np.ndarray]


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    assert got.shape == expected.shape
    return float(np.abs(got.astype(np.float64) - expected).max() / max(np.abs(expected).max(), 1e-30))


def test_frames_are_rebuilt_exactly() -> None:
    crcs = [zlib.crc32(frame.tobytes()) for frame in golden.frames(CASE)]
    assert crcs == EXPECTED["frame_crc32"].tolist()


@pytest.fixture(scope="module")
def eager(slim_checkpoint: Path) -> Trace:
    ids = EXPECTED["prefix_ids"].tolist(), EXPECTED["suffix_ids"].tolist()
    return load_model(slim_checkpoint).trace(golden.frames(CASE), *ids)


@pytest.mark.parametrize("name", TRACE_KEYS)
def test_eager_reproduces_the_published_numbers(eager: Trace, name: str) -> None:
    got = eager[name][golden.SLICES[name]] if name in golden.SLICES else eager[name]
    assert difference(got, EXPECTED[name]) <= (0 if name == "selected" else GOLDEN)


def test_every_visual_token_has_the_published_norm(eager: Trace) -> None:
    norms = np.linalg.norm(eager["visual_tokens"], axis=1)
    assert difference(norms, EXPECTED["visual_token_norms"]) <= GOLDEN


@pytest.fixture(scope="module")
def session(slim_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Not verified by the export, since that is what the tests here do."""
    return Session(export_bundle(slim_checkpoint, tmp_path_factory.mktemp("bundles") / "slim", verify=False))


@pytest.mark.parametrize("count", [16, 5], ids=["whole", "padded"])
def test_fp32_bundle_equals_eager(session: Session, slim_checkpoint: Path, eager: Trace, count: int) -> None:
    """5 frames: the other 11 are zeros after normalisation, in both streams."""
    frames = golden.frames(CASE)[:count]
    ids = EXPECTED["prefix_ids"].tolist(), EXPECTED["suffix_ids"].tolist()
    reference = eager if count == 16 else load_model(slim_checkpoint).trace(frames, *ids)
    got = session.trace(frames, *ids)
    assert list(got) == list(TRACE_KEYS)
    for name in TRACE_KEYS:
        assert got[name].dtype == reference[name].dtype, name
        assert difference(got[name], reference[name]) <= (0 if name == "selected" else FP32_BUNDLE), name
    if count < 16:
        assert not got["clip_pixels"][count:].any()
        assert not got["video_pixels"][count:].any()
