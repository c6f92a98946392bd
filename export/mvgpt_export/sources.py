"""What CHECKPOINT may be on the command line: a folder, a hub id, `tiny`, `random:SIZE` → model and tokenizer."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvgpt_runtime.errors import MvgptError

from .config import NAMED_CONFIGS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from .models.video_gpt import VideoGPT

CLIP_HUB_ID = "openai/clip-vit-base-patch16"
VIDEOMAMBA_HUB = ("OpenGVLab/VideoMamba", "videomamba_m16_25M_f8_res224.pth")
OWN_LICENSE = "Apache-2.0"  # of weights we made
CHECKPOINT_LICENSE = "the checkpoint's own (published Mobile-VideoGPT: CC-BY-NC-SA-4.0)"
TINY = Path(str(files("mvgpt_export") / "data" / "tiny"))
"""The embedded default: a checkpoint folder in the published layout (docs/training.md)."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.bin", "merges.txt"]


@dataclass(frozen=True)
class Source:
    """A checkpoint in memory. `tokenizer` is None where the checkpoint has none."""

    name: str
    license: str
    model: VideoGPT
    tokenizer: Tokenizer | None


def open_source(checkpoint: str, *, clip: str | None = None, videomamba: str | None = None) -> Source:
    """Load what CHECKPOINT names; encoders that it lacks come from `clip` and `videomamba`, else from the hub.

    Raises:
        MvgptError: no such checkpoint, the hub out of reach, or anything `load_model` refuses.
    """
    from .checkpoint import load_model, open_folder, read_json
    from .random_weights import random_model
    from .tokenizer import folder_tokenizer, qwen_tokenizer

    if checkpoint == "tiny" or checkpoint.startswith("random:"):
        if clip or videomamba:
            raise MvgptError(
                f"{checkpoint} takes no second source", stage="checkpoint", remedy="leave --clip and --videomamba out"
            )
        if checkpoint == "tiny":
            return Source(checkpoint, OWN_LICENSE, load_model(TINY), tiny_tokenizer())
        size = checkpoint.removeprefix("random:")
        if size not in NAMED_CONFIGS:
            raise MvgptError("unknown size", stage="checkpoint", expected=", ".join(NAMED_CONFIGS), got=size)
        tokenizer = tiny_tokenizer() if size == "tiny" else qwen_tokenizer()  # first: it is the quicker one to fail
        return Source(checkpoint, OWN_LICENSE, random_model(NAMED_CONFIGS[size]), tokenizer)

    folder = Path(checkpoint)
    if not checkpoint or not folder.is_dir():
        if not HUB_ID.fullmatch(checkpoint) or folder.exists():
            raise MvgptError(
                "no such checkpoint",
                stage="checkpoint",
                expected="a folder, a hub id (owner/name), tiny, " + ", ".join(f"random:{n}" for n in NAMED_CONFIGS),
                got=checkpoint,
            )
        folder = download(checkpoint, CHECKPOINT_FILES)
    raw = read_json(folder / "config.json")
    names = open_folder(folder).shapes.keys()
    if clip is None and not any(name.startswith("model.image_vision_tower.") for name in names):
        clip = str(
            download(
                _hub_id(raw, "image_mm_vision_tower", CLIP_HUB_ID),
                ["config.json", "model.safetensors", "pytorch_model.bin"],
            )
        )
    if videomamba is None and not any(name.startswith("model.vision_tower.") for name in names):
        repository, file = VIDEOMAMBA_HUB
        videomamba = str(download(repository, [file]) / file)
    model = load_model(folder, clip=clip, videomamba=videomamba)
    return Source(checkpoint, CHECKPOINT_LICENSE, model, folder_tokenizer(folder))


def weight_digests(model: VideoGPT) -> dict[str, str]:
    """sha256 by network, of the names and the float32 values of its parameters."""
    digests = {}
    for name, network in model.named_children():
        digest = hashlib.sha256()
        for key, parameter in network.named_parameters():
            digest.update(key.encode())
            digest.update(parameter.detach().contiguous().numpy().data)
        if any(True for _ in network.parameters()):
            digests[name] = digest.hexdigest()
    return digests


def _hub_id(raw: dict[str, Any], key: str, default: str) -> str:
    value = raw.get(key)
    return value if isinstance(value, str) and HUB_ID.fullmatch(value) else default


def tiny_tokenizer() -> Tokenizer:
    """The embedded default's tokenizer (tools/train_tiny_tokenizer.py made it)."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str((TINY / "tokenizer.json").read_text(encoding="utf-8"))


def download(repository: str, patterns: list[str]) -> Path:
    """The files of a hub repository, from the local cache or with the hub's own progress bars."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as e:
        raise MvgptError(
            f"cannot get {repository} from the hub",
            stage="checkpoint",
            got=f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}",
            remedy="check the name and the network, or download the folder elsewhere and give its path",
        ) from None
