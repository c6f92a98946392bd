"""A bundle folder and its manifest: what the exporter promises and a host checks before it loads anything.

The schema is `Manifest`; docs/bundle-format.md describes it for other languages.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from . import contract
from .contract import Geometry
from .errors import MvgptError
from .kernels import NAMESPACE


def _relative(name: str) -> str:
    """A file below this folder, `/` between names: nothing that could leave it, on any OS."""
    if any(part in ("", ".", "..") or any(c in part for c in "\\:\0") for part in name.split("/")):
        raise ValueError(f"file name {name!r} leaves the bundle folder")
    return name


FileName = Annotated[str, AfterValidator(_relative)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelInfo(_Part):
    name: str  # as given to the exporter
    parameters: PositiveInt
    license: str


class SourceInfo(_Part):
    """What the bundle was made from, so that it can be compared again."""

    checkpoint: str  # as given to the exporter, like the next two
    clip: str | None
    videomamba: str | None
    weights: dict[str, Sha256]  # by network, of its parameters in float32: tells another checkpoint from a wrong export


class FileInfo(_Part):
    sha256: Sha256
    bytes: NonNegativeInt
    planned_bytes: NonNegativeInt = 0  # what loading this file allocates: state, and XNNPACK's activations
    operators: tuple[str, ...] = ()  # kernels the runtime must have besides the delegates


class StageInfo(_Part):
    file: FileName  # or a folder of files
    method: str  # in the file, where a file has several
    backend: str
    delegates: NonNegativeInt  # subgraphs that run on the backend
    undelegated: dict[str, PositiveInt]  # operators that run as portable kernels, with their count


class Prompt(_Part):
    prefix: str
    suffix: str  # with one {question}
    next_turn: str  # likewise; follows an answer


class Sampling(_Part):
    temperature: Annotated[float, Field(ge=0)] = 0.0  # 0: greedy
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: NonNegativeInt = 0  # 0: no limit
    repetition_penalty: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0  # 1: none
    max_new_tokens: PositiveInt = 128


class Memory(_Part):
    """Estimates in bytes, to choose a device by: files mapped plus planned arenas; the process itself is not in it."""

    all_loaded: NonNegativeInt
    low_memory: NonNegativeInt  # the larger of: encoders alone, language model alone


class Verification(_Part):
    """How close the stages came to the eager model at export: the worst of all inputs (`mvgpt parity` shows each)."""

    inputs: tuple[str, ...]
    sqnr_db: dict[str, float]  # by stage, of its own error; 200 is equality
    argmax_agreement: Annotated[float, Field(ge=0, le=1)]  # share of positions with the same likeliest next token
    kl_divergence: float  # of the logits, nats


class Manifest(_Part):
    """`files` also has those that a stage's file brings with it: a package is a folder, weights may lie beside a graph.
    All of them begin with the unit's name and a dot (`contract.unit`)."""

    schema_version: int
    contract_version: int
    model: ModelInfo
    source: SourceInfo
    recipe: str
    backend: str  # what --backend named; stages say which one runs them
    kernels: Literal["fused", "stock"]  # fused: some operators are our own, a runtime must have them built in
    geometry: dict[str, PositiveInt]
    stages: dict[str, StageInfo]
    files: dict[FileName, FileInfo]
    tokenizer: FileName | None  # None: the checkpoint had none; the bundle can be traced but not asked
    prompt: Prompt
    stop_ids: tuple[NonNegativeInt, ...]
    special_ids: dict[str, NonNegativeInt]
    sampling: Sampling
    memory: Memory
    verified: Verification | None  # None: exported with --no-verify, nothing was compared
    tools: dict[str, str]

    @property
    def backends(self) -> tuple[str, ...]:
        """Of the stages, each once."""
        return tuple(dict.fromkeys(stage.backend for stage in self.stages.values()))

    def files_with(self, file: str) -> list[str]:
        """The files of `file`'s unit: to load any of them, all must be there."""
        return [name for name in self.files if contract.unit(name) == contract.unit(file)]

    def bytes_of(self, stage: str) -> int:
        """Of all files of its unit."""
        return sum(self.files[name].bytes for name in self.files_with(self.stages[stage].file))

    @property
    def own_operators(self) -> list[str]:
        """The operators it needs that no stock runtime has."""
        return sorted({op for file in self.files.values() for op in file.operators if op.startswith(NAMESPACE + "::")})

    @property
    def sizes(self) -> Geometry:
        return Geometry(**self.geometry)


class Bundle:
    """An opened bundle: the manifest is valid, every file is there and has the promised size and hash."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Takes files on trust: `open` checks them."""
        self.folder, self.manifest, self.geometry = folder, manifest, manifest.sizes
        self._identities = {name: _identity(folder / name) for name in manifest.files}

    @classmethod
    def open(cls, folder: str | Path) -> Bundle:
        """Raises MvgptError for anything that is not exactly as the manifest says."""
        folder = Path(folder)
        bundle = cls(folder, read_manifest(folder))
        with ThreadPoolExecutor() as pool:  # hashing releases the GIL
            for _ in pool.map(lambda item: _check_file(folder, *item), bundle.manifest.files.items()):
                pass
        return bundle

    def path(self, stage: str) -> Path:
        """The file or folder that holds `stage`; see `file`."""
        return self.file(self.manifest.stages[stage].file)

    def file(self, name: str) -> Path:
        """Where a file of the bundle is, to be opened at once, with the others of its unit if it refers to them.

        Raises:
            MvgptError: since the bundle was opened one was replaced or written to; its hash is not known any more.
        """
        for part in self.manifest.files_with(name):
            if _identity(self.folder / part) != self._identities[part]:
                raise MvgptError(
                    f"{part} was changed while the bundle was open",
                    stage="bundle",
                    got=self.folder / part,
                    remedy="open the bundle again, which checks its files anew",
                )
        return self.folder / name


def _identity(path: Path) -> tuple[int, ...] | None:
    """Changes when a file is replaced or written to; None if there is none."""
    try:
        s = path.stat()
    except OSError:
        return None
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone, checked against the schema, this contract and itself; no other file is read."""
    path = folder / contract.MANIFEST_NAME
    if not folder.is_dir():
        raise MvgptError("no such bundle folder", stage="bundle", got=folder, remedy="make one with `mvgpt export`")
    if not path.is_file():  # nor a pipe, which would be waited for
        raise MvgptError(
            f"the folder has no {contract.MANIFEST_NAME}",
            stage="bundle",
            got=folder,
            remedy="an export that was interrupted leaves none: export again",
        )
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as e:
        raise MvgptError("cannot read the manifest", stage="bundle", expected="UTF-8 JSON", got=e) from None
    if not isinstance(raw, dict):
        raise MvgptError("the manifest is no JSON object", stage="bundle", got=type(raw).__name__)
    # Versions first: another version's manifest need not fit this schema, and the reason should be the version.
    for key, expected in (
        ("schema_version", contract.MANIFEST_SCHEMA_VERSION),
        ("contract_version", contract.CONTRACT_VERSION),
    ):
        if raw.get(key) != expected:
            raise MvgptError(
                f"the bundle has another {key}",
                stage="bundle",
                expected=expected,
                got=raw.get(key),
                remedy="export the checkpoint again with this version of mvgpt",
            )
    try:
        # From the text, so that JSON's arrays may fill tuples while every type stays strict.
        manifest = Manifest.model_validate_json(json.dumps(raw))
        _check_consistency(manifest)
    except (ValidationError, ValueError, TypeError) as e:
        first = e.errors()[0] if isinstance(e, ValidationError) else None
        where = ".".join(str(part) for part in first["loc"]) if first else ""
        got = f"{where}: {first['msg']}" if first else str(e)
        raise MvgptError("the manifest is malformed", stage="bundle", got=got, remedy="export again") from None
    return manifest


def _check_consistency(manifest: Manifest) -> None:
    if tuple(manifest.stages) != contract.STAGE_NAMES:
        raise ValueError(f"stages: expected {', '.join(contract.STAGE_NAMES)}; got {', '.join(manifest.stages)}")
    listed = manifest.files.keys() - {manifest.tokenizer}
    for name, stage in manifest.stages.items():
        if contract.unit(stage.file) != contract.stage(name).unit:
            raise ValueError(f"stages.{name}: {stage.file} is not called {contract.stage(name).unit} and a dot")
        if not any(f"{file}/".startswith(f"{stage.file}/") for file in listed):
            raise ValueError(f"stages.{name}: {stage.file} is not listed in files")
    if manifest.tokenizer and manifest.tokenizer not in manifest.files:
        raise ValueError(f"tokenizer: {manifest.tokenizer} is not listed in files")
    if others := sorted(file for file in listed if contract.unit(file) not in contract.UNITS):
        raise ValueError(f"files: neither of a stage nor the tokenizer: {', '.join(others)}")
    if manifest.tokenizer and not manifest.stop_ids:
        raise ValueError("stop_ids is empty: no answer would end")
    for name in ("suffix", "next_turn"):
        if "{question}" not in getattr(manifest.prompt, name):
            raise ValueError(f"prompt.{name} has no {{question}}")
    sizes = manifest.sizes  # TypeError for an unknown or missing size
    if sizes.num_frames % sizes.chunk_frames or sizes.visual_tokens >= sizes.max_context or sizes.prefill_chunk < 1:
        raise ValueError(f"geometry: impossible sizes {manifest.geometry}")


def _check_file(folder: Path, name: str, info: FileInfo) -> None:
    path = folder / name
    try:
        size = path.stat().st_size if path.is_file() else None
        digest = file_sha256(path) if size == info.bytes else None
    except OSError as e:  # a name too long, no permission
        raise MvgptError("a file of the bundle cannot be read", stage="bundle", got=e) from None
    if size is None:
        raise MvgptError(
            "a file of the bundle is missing", stage="bundle", expected=path, remedy="copy or export it again"
        )
    if size != info.bytes:
        raise MvgptError(
            f"{name} has another size than the manifest says",
            stage="bundle",
            expected=f"{info.bytes} bytes",
            got=f"{size} bytes",
            remedy="the copy was cut short or the file was changed: copy or export it again",
        )
    if digest != info.sha256:
        raise MvgptError(
            f"{name} has another sha256 than the manifest says",
            stage="bundle",
            expected=info.sha256,
            got=digest,
            remedy="the file is damaged or was changed: copy or export it again",
        )


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
