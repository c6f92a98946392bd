"""Writes tests/goldens/vectors again: the golden vectors of what a host does itself, for tests without a bundle.

python tools/write_host_vectors.py bundles/tiny
"""

from __future__ import annotations

import sys
from pathlib import Path

from mvgpt_runtime.goldens.host import host_cases
from mvgpt_runtime.goldens.vectors import write_vectors
from mvgpt_runtime.manifest import Bundle
from mvgpt_runtime.prompt import Prompt

if __name__ == "__main__":
    bundle = Bundle.open(sys.argv[1])
    provenance = {"tokenizer": bundle.manifest.model.name, "command": "python tools/write_host_vectors.py bundles/tiny"}
    write_vectors(
        host_cases(Prompt(bundle)), Path(__file__).parent.parent / "tests" / "goldens" / "vectors", provenance
    )
