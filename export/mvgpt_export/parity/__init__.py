"""Parity: every stage of a bundle beside the eager model, by itself and after the ones before it; who diverges first.

`reference.py` has the inputs and the eager side, `measure.py` runs the bundle, `metrics.py` compares, `floors.py` says
what passes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mvgpt_runtime import contract
from mvgpt_runtime.errors import MvgptError
from mvgpt_runtime.manifest import Bundle, Verification

from ..models.video_gpt import VideoGPT
from ..quant import RECIPES
from ..sources import open_source, weight_digests
from .measure import Progress, measure
from .metrics import Report, Row, direction
from .reference import Inputs, both_inputs

__all__ = ["Report", "Row", "check_parity", "compare", "verify"]


def _silent(what: str) -> None:
    pass


def check_parity(
    bundle: str | Path,
    checkpoint: str | Path | None = None,
    *,
    clip: str | None = None,
    videomamba: str | None = None,
    video: str | Path | None = None,
    progress: Progress = _silent,
) -> Report:
    """Compare every stage of a bundle with the eager model of its checkpoint.

    Args:
        bundle: folder made by `mvgpt export`.
        checkpoint: what `export_bundle` takes; None: what the bundle was made from, as the manifest says.
        clip, videomamba: where encoders come from that the checkpoint lacks; given with `checkpoint`.
        video: the real clip (None: the packaged one).
        progress: called with what is done next.

    Raises:
        MvgptError: a damaged bundle, a checkpoint that cannot be loaded or is of other sizes, no such video.
    """
    opened = Bundle.open(bundle)
    source = opened.manifest.source
    if checkpoint is None:
        checkpoint, clip, videomamba = source.checkpoint, clip or source.clip, videomamba or source.videomamba
    inputs = both_inputs(opened, Path(video) if video else None)  # first: it is the quicker one to fail
    progress("load checkpoint")
    try:
        model = open_source(str(checkpoint), clip=clip, videomamba=videomamba).model
    except MvgptError as e:
        if str(checkpoint) != source.checkpoint:
            raise
        raise MvgptError(
            f"cannot load what the bundle was made from: {e.what}",
            stage=e.stage,
            expected=e.expected,
            got=e.got,
            remedy="say where it is now with --checkpoint (and --clip, --videomamba)",
        ) from None
    digests = weight_digests(model)
    return Report(
        bundle=str(bundle),
        checkpoint=str(checkpoint),
        recipe=opened.manifest.recipe,
        other_weights=tuple(name for name, digest in digests.items() if source.weights.get(name) != digest),
        rows=compare(opened, model, inputs, progress),
    )


def compare(bundle: Bundle, model: VideoGPT, sets: Iterable[Inputs], progress: Progress = _silent) -> tuple[Row, ...]:
    """The rows of every set of inputs. MvgptError if the model has other sizes, or the recipe is unknown."""
    geometry = bundle.geometry
    sizes = contract.geometry_dict(
        replace(model.config.geometry(), max_context=geometry.max_context, prefill_chunk=geometry.prefill_chunk)
    )
    if different := {name: size for name, size in sizes.items() if size != bundle.manifest.geometry[name]}:
        raise MvgptError(
            "the checkpoint's sizes are not the bundle's",
            stage="checkpoint",
            expected=", ".join(f"{name} {bundle.manifest.geometry[name]}" for name in different),
            got=", ".join(f"{name} {size}" for name, size in different.items()),
            remedy="give the checkpoint that the bundle was made from",
        )
    if (recipe := RECIPES.get(bundle.manifest.recipe)) is None:
        raise MvgptError(
            "this version has no floors for the bundle's recipe",
            stage="bundle",
            expected=", ".join(RECIPES),
            got=bundle.manifest.recipe,
            remedy="check it with the version of mvgpt that made it (`mvgpt inspect` shows it), or export again",
        )
    return tuple(row for inputs in sets for row in measure(bundle, model, recipe, inputs, progress))


def verify(bundle: Bundle, model: VideoGPT, progress: Progress = _silent) -> Verification:
    """Export's own check. MvgptError naming the first failing stage, else what the manifest says of it."""
    manifest = bundle.manifest
    rows = compare(bundle, model, both_inputs(bundle, None), progress)
    report = Report(str(bundle.folder), manifest.source.checkpoint, manifest.recipe, (), rows)
    if first := report.first_failure:
        raise MvgptError(
            f"the exported stage differs from the eager model on the {first.inputs} inputs"
            + (", with errors accumulated before it" if first.fed == "bundle" else ""),
            stage=first.step,
            expected=", ".join(f"{name} {direction(name)} {first.limits[name]:.3g}" for name in first.failed),
            got=", ".join(f"{name} {first.metrics[name]:.3g}" for name in first.failed) + f" {first.note}".rstrip(),
            remedy="nothing was written; report this with the checkpoint's config.json. To look into it, export with "
            "--no-verify and run `mvgpt parity`",
        )
    own = [row for row in report.rows if row.fed == "eager"]
    text = [row for row in report.rows if row.step == "text_decoder"]
    return Verification(
        inputs=tuple(dict.fromkeys(row.inputs for row in own)),
        sqnr_db={name: min(row.metrics["sqnr_db"] for row in own if row.step == name) for name in contract.STAGE_NAMES},
        argmax_agreement=min(row.metrics["argmax_agreement"] for row in text),
        kl_divergence=max(row.metrics["kl_divergence"] for row in text),
    )
