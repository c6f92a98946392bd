"""Published checkpoint (Hugging Face layout) → eager model, strict both ways.

Every tensor of the file must be wanted and every wanted tensor must be there: a loader that drops the video encoder's
`_b` tensors computes another model without any error. Tensors stay memory-mapped until they are used.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mvgpt_runtime.errors import MvgptError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .config import ModelConfig, config_json, read_config
from .models import clip as clip_network
from .models import videomamba
from .models.video_gpt import VideoGPT

# Where each network's parameters stand in the checkpoint, in data order; the last prefix is the shortest.
PREFIXES = {
    "image_encoder": "model.image_vision_tower.vision_tower.vision_model.",
    "video_encoder": "model.vision_tower.vision_encoder.",
    "image_projector": "model.image_mm_projector.",
    "video_projector": "model.mm_projector.",
    "language_model": "model.",
}
LM_HEAD = "lm_head.weight"  # the one language model tensor outside "model."

# Present in released files and no part of inference: the distillation heads VideoMamba was pretrained with, its
# classifier, and buffers that older transformers releases stored.
IGNORED = re.compile(
    r"video_encoder\.(clip_decoder\..*|clip_pos_embed|clip_img_pos_embed|head\..*)"
    r"|image_encoder\.embeddings\.position_ids"
    r"|language_model\.(rotary_emb|layers\.\d+\.self_attn\.rotary_emb)\.inv_freq"
)


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


Loader = Callable[[], torch.Tensor]

# What torch.load raises on files that are damaged or hold code; it has no error type of its own.
_PICKLE_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
)


class Tensors(Mapping[str, torch.Tensor]):
    """Tensors by name over one or more files: shapes at once, data when asked for."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], loaders: dict[str, Loader]) -> None:
        self.shapes, self._loaders = shapes, loaders

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._loaders[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def renamed(self, rename: Callable[[str], str | None]) -> Tensors:
        """The tensors that `rename` gives a name, by that name."""
        names = {new: old for old in self.shapes if (new := rename(old)) is not None}
        shapes = {new: self.shapes[old] for new, old in names.items()}
        return Tensors(shapes, {new: self._loaders[old] for new, old in names.items()})

    def merged(self, other: Tensors) -> Tensors:
        if twice := sorted(self.shapes.keys() & other.shapes.keys()):
            raise _error("tensors stand in more than one file", got=_listing(twice))
        return Tensors(self.shapes | other.shapes, self._loaders | other._loaders)


def _error(what: str, expected: object = None, got: object = None, remedy: str | None = None) -> MvgptError:
    return MvgptError(what, stage="checkpoint", expected=expected, got=got, remedy=remedy)


def _listing(names: list[str]) -> str:
    shown = names[:20]
    return "\n    ".join(["", *shown, *([f"… and {len(names) - 20} more"] if len(names) > 20 else [])])


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _error("file not found", got=path, remedy="give a checkpoint folder in the Hugging Face layout") from None
    except (ValueError, OSError, RecursionError) as e:
        raise _error(f"cannot read {path.name}", expected="JSON", got=e) from None
    if not isinstance(value, dict):
        raise _error(f"{path.name} holds no JSON object", got=type(value).__name__)
    return value


def open_safetensors(path: Path) -> Tensors:
    try:
        file = safe_open(path, framework="pt")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise _error("file not found", got=path) from None
    except (SafetensorError, OSError) as e:
        raise _error(
            f"{path.name} is no safetensors file, or is truncated", got=e, remedy="download it again"
        ) from None
    return Tensors(shapes, {name: partial(file.get_tensor, name) for name in shapes})


def open_pickle(path: Path) -> Tensors:
    """A `.bin` or `.pth` file, memory-mapped where its format allows; code in it is refused, not run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise _error("file not found", got=path) from None
    except _PICKLE_ERRORS as e:
        raise _error(
            f"{path.name} is no plain tensor file, or is truncated",
            expected="tensors only (loaded with weights_only=True)",
            got=str(e).splitlines()[0] if str(e) else type(e).__name__,
            remedy="download it again, or convert it to safetensors where you trust it",
        ) from None
    for wrapper in ("model", "module", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise _error(f"{path.name} holds no tensors by name", got=type(state).__name__)
    return Tensors({n: tuple(t.shape) for n, t in state.items()}, {n: partial(_same, t) for n, t in state.items()})


def open_folder(folder: Path) -> Tensors:
    """All tensors of a checkpoint folder: safetensors if there are any, else pytorch_model.bin; sharded or not."""
    for name, opener in (("model.safetensors", open_safetensors), ("pytorch_model.bin", open_pickle)):
        index = folder / f"{name}.index.json"
        if index.is_file():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
                raise _error(f"{index.name} has no weight_map")
            tensors = Tensors({}, {})
            for file in sorted(set(weight_map.values())):
                if Path(file).name != file:
                    raise _error(f"{index.name} names a file outside the folder", got=file)
                tensors = tensors.merged(opener(folder / file))
            if absent := sorted(weight_map.keys() - tensors.shapes.keys()):
                raise _error(f"tensors named by {index.name} are in no shard", got=_listing(absent))
            return tensors
        if (folder / name).is_file():
            return opener(folder / name)
    raise _error(
        f"no weights in {folder}",
        expected="model.safetensors, model.safetensors.index.json or pytorch_model.bin",
        got=", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder",
    )


def _internal_name(name: str) -> str | None:
    """`<network>.<parameter>`, or None for a name that belongs to no network."""
    for network, prefix in PREFIXES.items():
        if name.startswith(prefix):
            return f"{network}.{name[len(prefix) :]}"
    return f"language_model.{name}" if name == LM_HEAD else None


def _below(prefix: str) -> Callable[[str], str | None]:
    return lambda name: name[len(prefix) :] if name.startswith(prefix) else None


def _clip_tensors(source: Path) -> Tensors:
    """A Hugging Face CLIP folder; its text half and projections are another network's."""
    file = source if source.is_file() else None
    tensors = (
        (open_safetensors(file) if file.suffix == ".safetensors" else open_pickle(file))
        if file
        else open_folder(source)
    )
    return tensors.renamed(lambda name: f"image_encoder.{n}" if (n := _below("vision_model.")(name)) else None)


def _videomamba_tensors(source: Path) -> Tensors:
    tensors = open_safetensors(source) if source.suffix == ".safetensors" else open_pickle(source)
    return tensors.renamed(lambda name: "video_encoder." + name.removeprefix("module.").removeprefix("vision_encoder."))


def load_model(folder: str | Path, *, clip: str | Path | None = None, videomamba: str | Path | None = None) -> VideoGPT:
    """The eager float32 model of a checkpoint folder.

    Args:
        folder: config.json and weights in the published layout.
        clip: Hugging Face CLIP folder with the image encoder's weights, if the checkpoint has none.
        videomamba: VideoMamba `.pth` with the video encoder's weights, if the checkpoint has none.

    Raises:
        MvgptError: unreadable files, an unsupported config, missing or unused keys, a wrong shape.
    """
    folder = Path(folder)
    raw = read_json(folder / "config.json")
    stored = open_folder(folder)
    foreign = sorted(name for name in stored if _internal_name(name) is None)
    tensors = stored.renamed(_internal_name)
    for network, source, opener in (
        ("image_encoder", clip, _clip_tensors),
        ("video_encoder", videomamba, _videomamba_tensors),
    ):
        present = any(name.startswith(f"{network}.") for name in tensors)
        if source is None:
            continue
        if present:
            raise _error(
                f"the checkpoint has {network} weights of its own", got=source, remedy="leave the second source out"
            )
        tensors = tensors.merged(opener(Path(source)))
    config = read_config(
        raw, tensors.renamed(_below("image_encoder.")).shapes, tensors.renamed(_below("video_encoder.")).shapes
    )
    return _assemble(config, tensors, foreign, raw)


def _assemble(config: ModelConfig, tensors: Tensors, foreign: list[str], raw: Mapping[str, Any]) -> VideoGPT:
    if config.text.layers > len(tensors):  # before a billion layers are built
        raise _error("config.json asks for layers that the weights lack", len(tensors), config.text.layers)
    with torch.device("meta"):
        model = VideoGPT(config)
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    # Conv3d in the file, Conv2d here (see models/videomamba.py).
    patch = "video_encoder.patch_embed.proj.weight"
    wanted[patch] = (*wanted[patch][:2], 1, *wanted[patch][2:])
    never_run = {f"image_encoder.{n}": s for n, s in clip_network.never_run_keys(config.clip).items()}
    expected = wanted | never_run

    found = {name for name in tensors if not IGNORED.fullmatch(name)}
    head, table = f"language_model.{LM_HEAD}", "language_model.embed_tokens.weight"
    if config.text.tied and {head, table} <= found:
        if not torch.equal(tensors[head].float(), tensors[table].float()):
            raise _error(
                "lm_head.weight differs from embed_tokens.weight", expected="tie_word_embeddings: equal tensors"
            )
        found.remove(head)

    problems = {
        "missing": sorted(_published_name(n) for n in expected.keys() - found),
        "unused": sorted([*(_published_name(n) for n in found - expected.keys()), *foreign]),
        "of another shape": sorted(
            f"{_published_name(n)}: expected {list(expected[n])}, got {list(tensors.shapes[n])}"
            for n in expected.keys() & found
            if expected[n] != tensors.shapes[n]
        ),
    }
    if any(problems.values()):
        raise _error(
            "the tensors are not this model's",
            expected="every tensor of config.json's model, and no other",
            got="".join(f"\n   {kind} ({len(names)}):{_listing(names)}" for kind, names in problems.items() if names),
            remedy="compare config.json with the weights; encoders published apart go in with --clip and --videomamba",
        )
    for network in PREFIXES:
        module: nn.Module = getattr(model, network)
        state = {
            name: t.to(torch.float32)
            for name, t in tensors.renamed(_below(f"{network}.")).items()
            if f"{network}.{name}" in wanted
        }
        module.load_state_dict(videomamba.sanitize(state), strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _published_name(name: str) -> str:
    network, _, rest = name.partition(".")
    return rest if rest == LM_HEAD else PREFIXES[network] + rest


def save_checkpoint(model: VideoGPT, folder: str | Path) -> None:
    """Write `model` in the published layout (config.json, model.safetensors). The image encoder's last block, which the
    pipeline never runs and the model does not hold, is written as zeros."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {_published_name(name): p.detach() for name, p in model.named_parameters()}
    patch = PREFIXES["video_encoder"] + "patch_embed.proj.weight"
    state[patch] = state[patch].unsqueeze(2)
    for name, shape in clip_network.never_run_keys(model.config.clip).items():
        state[PREFIXES["image_encoder"] + name] = torch.zeros(shape, dtype=state[patch].dtype)
    save_file(
        {name: t.contiguous() for name, t in state.items()}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    (folder / "config.json").write_text(json.dumps(config_json(model.config), indent=1))
