"""Full shapes, seeded random weights: minutes, and 12 GB of memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mvgpt_export import export_bundle
from mvgpt_runtime.manifest import Bundle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Exporting compares every stage with the eager model."""
    return export_bundle("random:0.5b", tmp_path_factory.mktemp("bundles") / "random-0.5b")


@pytest.mark.timeout(2400)
def test_random_half_billion_exports_and_answers(bundle: Bundle, real_clip: Path) -> None:
    assert bundle.geometry.visual_tokens == 2402
    assert 600e6 < bundle.manifest.model.parameters < 700e6
    command = [sys.executable, "-m", "mvgpt_export", "ask", str(bundle.folder), str(real_clip), "What happens?"]
    output = subprocess.check_output([*command, "--max-new-tokens", "16", "--json"], text=True)
    answer = json.loads(output)
    assert len(answer["token_ids"]) == 16 or answer["finish_reason"] == "stop"
    assert answer["stats"]["num_prompt_tokens"] > 2402
