"""Checkpoint → bundle: export each stage, lower it, run it against the eager model, and only then write the manifest.

Everything is written to a folder beside the output, which takes its place at the end: a killed export leaves no bundle.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
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

from .backends import BACKENDS, TARGETS, LoweredMethod, LoweredUnit, Report, Target, delegation
from .calibration import calibration_prompts
from .parity import verify as verify_bundle
from .quant import HALF_ARITHMETIC, HALF_TABLE, RECIPES, Recipe
from .ranges import check_ranges
from .sources import Source, open_source, weight_digests
from .stages import calls, default_kernels, unit_modules
from .tokenizer import compact, special_ids
from .tracing import without_repetition

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
        backend, recipe: names from TARGETS and RECIPES.
        kernels: of what XNNPACK runs: "fused" (our own operators) or "stock" (an unmodified runtime's); None: the
            target's, or fused if they are compiled.
        clip, videomamba: where encoders come from that the checkpoint lacks.
        max_context: positions of the KV cache (None: the video plus `config.PROMPT_RESERVE`).
        verify: compare every stage with the eager model; without, the manifest says that nothing was compared.
        progress: called before each step.

    Raises:
        MvgptError: a checkpoint that cannot be loaded, a stage that differs from the eager model. Nothing is written.
    """
    for kind, name, known in (("backend", backend, TARGETS), ("recipe", recipe, RECIPES)):
        _check_known(kind, name, known)
    target = TARGETS[backend]
    _check_known(f"recipe of the backend {backend}", recipe, target.recipes())
    forms = _forms(backend, target, kernels)
    _check_installed(target)
    output = Path(output)
    check_output(output, "bundle", _is_bundle)
    steps = ["load checkpoint", *(f"export {unit}" for unit in contract.UNITS), *(["verify"] if verify else [])]

    def step(i: int) -> None:
        progress(steps[i], i, len(steps))

    step(0)
    source = open_source(str(checkpoint), clip=clip, videomamba=videomamba)
    geometry = source.model.config.geometry(max_context)
    # Before the long work, so that an unfit tokenizer costs nothing.
    ids, stop_ids = special_ids(source.tokenizer, geometry.vocab_size) if source.tokenizer else ({}, ())
    check_ranges(source, target, recipe, partial(_detail, progress, steps[0], 0, len(steps)))
    with folder_in_the_making(output) as folder:
        lowered: dict[str, LoweredUnit] = {}
        for i, unit in enumerate(contract.UNITS, start=1):
            step(i)
            stages, lowering = [s.name for s in contract.STAGES if s.unit == unit], target.backends[unit]
            path = folder / (unit + BACKENDS[lowering].suffix)
            report = partial(_detail, progress, steps[i], i, len(steps))
            lowered[unit] = export_unit(
                source, stages, geometry, lowering, RECIPES[recipe], forms[lowering], path, report
            )
        if source.tokenizer is not None:
            (folder / contract.TOKENIZER_NAME).write_text(compact(source.tokenizer), encoding="utf-8")
        made_from = SourceInfo(
            checkpoint=str(checkpoint), clip=clip, videomamba=videomamba, weights=weight_digests(source.model)
        )
        fused = "fused" in forms.values()
        manifest = _manifest(source, made_from, geometry, backend, recipe, fused, folder, lowered, ids, stop_ids)
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
    form: str,
    path: Path,
    report: Report = lambda what: None,
) -> LoweredUnit:
    """Export and lower the stages of one unit; MvgptError if operators stay outside the delegates that should not."""
    programs = {}
    with torch.no_grad():
        prompts = calibration_prompts(source) if recipe.calibrated and "text_decoder" in stages else None
        modules = unit_modules(source.model, stages, geometry, form, recipe, prompts, report)
        for name, module in modules.items():
            report(f"trace {name}")
            for function, (inputs, shapes) in calls(name, geometry, form).items():
                with without_repetition():
                    programs[function] = torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
    with without_repetition():
        lowered = BACKENDS[backend].lower(programs, recipe, geometry, source.license, path, report)
    for name, method in lowered.methods.items():
        if backend not in delegation.ALLOWED:
            continue  # it has whole graphs compiled
        schemes = {rule.scheme for rule in recipe.rules_for(name)}
        besides = [allowed for scheme, allowed in _CASTS.items() if scheme in schemes]
        delegation.check(backend, form, name, source.model.config.layers(name), method, besides)
    return lowered


def _detail(progress: Progress, step: str, done: int, total: int, what: str) -> None:
    progress(f"{step}: {what}", done, total)


def _manifest(
    source: Source,
    made_from: SourceInfo,
    geometry: Geometry,
    backend: str,
    recipe: str,
    fused: bool,
    folder: Path,
    lowered: dict[str, LoweredUnit],
    ids: dict[str, int],
    stop_ids: tuple[int, ...],
) -> Manifest:
    backends = TARGETS[backend].backends

    def stage_info(unit: str, name: str, method: LoweredMethod) -> StageInfo:
        return StageInfo(
            file=method.file or unit + BACKENDS[backends[unit]].suffix,
            method=name,
            backend=backends[unit],
            delegates=method.delegates,
            undelegated=method.undelegated,
        )

    stages = {n: stage_info(unit, n, m) for unit, made in lowered.items() for n, m in made.methods.items()}
    files = {
        name: FileInfo(sha256=file_sha256(path), bytes=path.stat().st_size)
        for name, path in sorted((p.relative_to(folder).as_posix(), p) for p in folder.rglob("*") if p.is_file())
    }
    loaded = dict.fromkeys(contract.UNITS, 0)
    for unit, made in lowered.items():
        parts = [name for name in files if contract.unit(name) == unit]
        loaded[unit] = sum(files[name].bytes for name in parts) + made.planned_bytes
        # In the manifest these belong to a file. Of several, to the first.
        files[parts[0]] = files[parts[0]].model_copy(
            update={"planned_bytes": made.planned_bytes, "operators": made.operators}
        )
    language = loaded.pop(contract.stage("text_decoder").unit)
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
        kernels="fused" if fused else "stock",
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
        memory=Memory(all_loaded=language + sum(loaded.values()), low_memory=max(language, sum(loaded.values()))),
        verified=None,
        tools={name: version(name) for name in ("mvgpt", "torch", *_tools(TARGETS[backend]))},
    )


def _check_known(kind: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise MvgptError(f"unknown {kind}", stage="export", expected=", ".join(known), got=name)


def _forms(backend: str, target: Target, kernels: str | None) -> dict[str, str]:
    """By lowering backend, the form that it gets; MvgptError if `kernels` is none of the target's."""
    chosen = {name: BACKENDS[name].forms for name in target.backends.values()}
    choices = [form for forms in chosen.values() if len(forms) > 1 for form in forms]
    if target.kernels:
        choices = [target.kernels]
    if kernels is not None and not choices:
        raise MvgptError(
            f"the backend {backend} has no choice of kernels", stage="export", got=kernels, remedy="leave out --kernels"
        )
    if kernels is not None:
        _check_known("kernels", kernels, choices)
    kernels = kernels or target.kernels or default_kernels()
    if kernels == "fused" and choices and not available():
        raise MvgptError("the fused operators are not compiled", stage="export", remedy=REMEDY)
    return {name: kernels if len(forms) > 1 else forms[0] for name, forms in chosen.items()}


def _check_installed(target: Target) -> None:
    for name in dict.fromkeys(target.backends.values()):
        lowering = BACKENDS[name]
        if missing := [tool for tool in lowering.tools if find_spec(tool) is None]:
            raise MvgptError(
                f"the backend {name} needs packages that are not installed",
                stage="export",
                expected=", ".join(missing),
                remedy=f"pip install 'mvgpt[{lowering.extra}]'" if lowering.extra else "install mvgpt again",
            )


def _tools(target: Target) -> list[str]:
    return list(dict.fromkeys(tool for name in target.backends.values() for tool in BACKENDS[name].tools))


def _is_bundle(folder: Path) -> bool:
    try:
        read_manifest(folder)
        return True
    except MvgptError:  # it may be a damaged or older one
        return (folder / contract.MANIFEST_NAME).is_file() and any(
            contract.unit(path.name) in contract.UNITS for path in folder.iterdir()
        )
