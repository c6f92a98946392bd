"""Checkpoint → bundle: export each stage, lower it, run it against the eager model, and only then write the manifest.

Everything is written to a folder beside the output, which takes its place at the end: a killed export leaves no bundle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from mvgpt_runtime import contract
from mvgpt_runtime.contract import Geometry
from mvgpt_runtime.errors import MvgptError
from mvgpt_runtime.folders import check_output, folder_in_the_making
from mvgpt_runtime.kernels import REMEDY, available
from mvgpt_runtime.manifest import (
    Bundle,
    FileInfo,
    Manifest,
    Memory,
    ModelInfo,
    Prompt,
    Sampling,
    SourceInfo,
    StageInfo,
    file_sha256,
    read_manifest,
)

from .backends import BACKENDS, SUFFIXES, LoweredFile, Report, delegation
from .calibration import calibration_prompts
from .half import LARGEST, check_range
from .parity import verify as verify_bundle
from .quant import HALF_ARITHMETIC, HALF_TABLE, RECIPES, Recipe
from .samples import range_frames
from .sources import Source, open_source, weight_digests
from .stages import KERNELS, default_kernels, dynamic_shapes, example_inputs, unit_modules
from .tokenizer import compact, special_ids

# Operators that a scheme brings with it.
_CASTS = {HALF_ARITHMETIC: delegation.HALF_BRANCHES, HALF_TABLE: delegation.HALF_TABLE}

Progress = Callable[[str, int, int], None]
"""(what is done next, steps done, steps in all)."""


def export_bundle(
    checkpoint: str | Path,
    output: str | Path,
    *,
    backend: str = "xnnpack",
    recipe: str = "fp32",
    kernels: str | None = None,
    clip: str | None = None,
    videomamba: str | None = None,
    max_context: int | None = None,
    verify: bool = True,
    progress: Progress = lambda what, done, total: None,
) -> Bundle:
    """Export `checkpoint` (see `sources.open_source`) as a bundle folder `output`.

    Args:
        backend, recipe: names from BACKENDS and RECIPES.
        kernels: "fused" (our own operators) or "stock" (an unmodified runtime's); None: fused if they are compiled.
        clip, videomamba: where encoders come from that the checkpoint lacks.
        max_context: positions of the KV cache (None: the video plus `config.PROMPT_RESERVE`).
        verify: compare every stage with the eager model; without, the manifest says that nothing was compared.
        progress: called before each step.

    Raises:
        MvgptError: a checkpoint that cannot be loaded, a stage that differs from the eager model. Nothing is written.
    """
    kernels = kernels or default_kernels()
    choices: list[tuple[str, str, Collection[str]]] = [
        ("backend", backend, BACKENDS),
        ("recipe", recipe, RECIPES),
        ("kernels", kernels, KERNELS),
    ]
    for kind, name, known in choices:
        if name not in known:
            raise MvgptError(f"unknown {kind}", stage="export", expected=", ".join(known), got=name)
    if kernels == "fused" and not available():
        raise MvgptError("the fused operators are not compiled", stage="export", remedy=REMEDY)
    output = Path(output)
    check_output(output, "bundle", _is_bundle)
    units: dict[str, list[str]] = {}
    for stage in contract.STAGES:
        units.setdefault(stage.unit, []).append(stage.name)
    steps = ["load checkpoint", *(f"export {unit}" for unit in units), *(["verify"] if verify else [])]

    def step(i: int) -> None:
        progress(steps[i], i, len(steps))

    step(0)
    source = open_source(str(checkpoint), clip=clip, videomamba=videomamba)
    geometry = source.model.config.geometry(max_context)
    # Before the long work, so that an unfit tokenizer costs nothing.
    ids, stop_ids = special_ids(source.tokenizer, geometry.vocab_size) if source.tokenizer else ({}, ())
    for rule in RECIPES[recipe].rules:
        if rule.scheme == HALF_ARITHMETIC:
            frames = range_frames(geometry.image_size)
            peak = check_range(rule.stage, getattr(source.model, rule.stage), rule.layers, frames)
            progress(f"largest activation in float16 is {peak.value:.1f} of {LARGEST:.0f}", 0, len(steps))
    with folder_in_the_making(output) as folder:
        lowered: dict[str, LoweredFile] = {}
        for i, (unit, stages) in enumerate(units.items(), start=1):
            step(i)
            name = unit + SUFFIXES[backend]
            report = partial(_detail, progress, steps[i], i, len(steps))
            lowered[name] = export_unit(
                source, stages, geometry, backend, RECIPES[recipe], kernels, folder / name, report
            )
        if source.tokenizer is not None:
            (folder / contract.TOKENIZER_NAME).write_text(compact(source.tokenizer), encoding="utf-8")
        made_from = SourceInfo(
            checkpoint=str(checkpoint), clip=clip, videomamba=videomamba, weights=weight_digests(source.model)
        )
        manifest = _manifest(source, made_from, geometry, backend, recipe, kernels, folder, lowered, ids, stop_ids)
        if verify:
            step(len(steps) - 1)
            report = partial(_detail, progress, steps[-1], len(steps) - 1, len(steps))
            verified = verify_bundle(Bundle(folder, manifest), source.model, report)
            manifest = manifest.model_copy(update={"verified": verified})
        path = folder / contract.MANIFEST_NAME
        with path.open("w", encoding="utf-8") as f:
            f.write(manifest.model_dump_json(indent=1) + "\n")
            f.flush()
            os.fsync(f.fileno())
    progress("done", len(steps), len(steps))
    return Bundle(output, manifest)


def export_unit(
    source: Source,
    stages: list[str],
    geometry: Geometry,
    backend: str,
    recipe: Recipe,
    kernels: str,
    path: Path,
    report: Report = lambda what: None,
) -> LoweredFile:
    """Export and lower the stages of one file; MvgptError if operators stay outside the delegates that should not."""
    programs = {}
    with torch.no_grad():
        prompts = calibration_prompts(source) if recipe.calibrated and "text_decoder" in stages else None
        modules = unit_modules(source.model, stages, geometry, kernels, recipe, prompts, report)
        for name, module in modules.items():
            report(f"trace {name}")
            programs[name] = torch.export.export(
                module,
                example_inputs(name, geometry),
                dynamic_shapes=dynamic_shapes(name, geometry),
                strict=False,
            )
    lowered = BACKENDS[backend](programs, json.dumps(contract.stamp(stages, geometry)), path, report)
    for name, method in lowered.methods.items():
        schemes = {rule.scheme for rule in recipe.rules_for(name)}
        besides = [allowed for scheme, allowed in _CASTS.items() if scheme in schemes]
        delegation.check(backend, kernels, name, source.model.config.layers(name), method, besides)
    return lowered


def _detail(progress: Progress, step: str, done: int, total: int, what: str) -> None:
    progress(f"{step}: {what}", done, total)


def _manifest(
    source: Source,
    made_from: SourceInfo,
    geometry: Geometry,
    backend: str,
    recipe: str,
    kernels: str,
    folder: Path,
    lowered: dict[str, LoweredFile],
    ids: dict[str, int],
    stop_ids: tuple[int, ...],
) -> Manifest:
    def info(name: str, file: LoweredFile | None = None) -> FileInfo:
        path = folder / name
        return FileInfo(
            sha256=file_sha256(path),
            bytes=path.stat().st_size,
            planned_bytes=file.planned_bytes if file else 0,
            operators=file.operators if file else (),
        )

    files = {name: info(name, file) for name, file in lowered.items()}
    loaded = {name: f.bytes + f.planned_bytes for name, f in files.items()}
    stages = {
        name: StageInfo(file=file, method=name, backend=backend, delegates=m.delegates, undelegated=m.undelegated)
        for file, unit in lowered.items()
        for name, m in unit.methods.items()
    }
    decoder_file = stages["text_decoder"].file
    encoders = sum(size for name, size in loaded.items() if name != decoder_file)
    if source.tokenizer is not None:
        files[contract.TOKENIZER_NAME] = info(contract.TOKENIZER_NAME)
    return Manifest(
        schema_version=contract.MANIFEST_SCHEMA_VERSION,
        contract_version=contract.CONTRACT_VERSION,
        model=ModelInfo(
            name=Path(source.name).name,
            parameters=sum(p.numel() for p in source.model.parameters()),
            license=source.license,
        ),
        source=made_from,
        recipe=recipe,
        backend=backend,
        kernels="fused" if kernels == "fused" else "stock",
        geometry=contract.geometry_dict(geometry),
        stages={name: stages[name] for name in contract.STAGE_NAMES},
        files=files,
        tokenizer=contract.TOKENIZER_NAME if source.tokenizer is not None else None,
        prompt=Prompt(
            prefix=contract.PROMPT_PREFIX, suffix=contract.PROMPT_SUFFIX, next_turn=contract.PROMPT_NEXT_TURN
        ),
        stop_ids=stop_ids,
        special_ids=ids,
        sampling=Sampling(),
        memory=Memory(all_loaded=sum(loaded.values()), low_memory=max(encoders, loaded[decoder_file])),
        verified=None,
        tools={name: version(name) for name in ("mvgpt", "torch", "executorch", "torchao")},
    )


def _is_bundle(folder: Path) -> bool:
    try:
        read_manifest(folder)
        return True
    except MvgptError:  # it may be a damaged or older one
        return (folder / contract.MANIFEST_NAME).is_file() and any(folder.glob("*.pte"))
