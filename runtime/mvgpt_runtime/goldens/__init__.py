"""Golden vectors: what a bundle computes on this machine, as files that a test in any language reads.

docs/golden-vectors.md specifies the files for whoever reads them in Kotlin or Swift.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..engines import open_engine
from ..manifest import Bundle
from ..prompt import Prompt
from .check import first_difference
from .host import host_cases
from .model import pipeline_cases, stage_cases
from .vectors import Case, Progress, Vectors, bundle_provenance, write_vectors


def write_goldens(bundle: Bundle, output: str | Path, progress: Progress = lambda case: None) -> Vectors:
    """Run every case on the bundle and write the folder `output`; vectors there are replaced.

    The same bundle on the same machine gives the same bytes.

    Args:
        progress: called with the id of each case that is done.

    Raises:
        MvgptError: `output` holds something else; the bundle has no tokenizer, or cannot run here.
    """
    return write_vectors(bundle_cases(bundle), Path(output), bundle_provenance(bundle), progress)


def check_goldens(bundle: Bundle, vectors: str | Path, progress: Progress = lambda case: None) -> str | None:
    """The first case in data order in which the bundle on this machine differs from vectors; None if none does.

    Raises:
        MvgptError: no or damaged vectors, or of other cases than this version makes of this bundle.
    """
    return first_difference(bundle_cases(bundle), Path(vectors), progress)


def bundle_cases(bundle: Bundle) -> Iterator[Case]:
    """All cases, in the order of the data: the host's part, each stage alone, the whole."""
    prompt, engine, recipe = Prompt(bundle), open_engine(bundle), bundle.manifest.recipe
    yield from host_cases(prompt)
    yield from stage_cases(engine, bundle.geometry, recipe)
    yield from pipeline_cases(engine, bundle.geometry, prompt, recipe)
