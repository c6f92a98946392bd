"""Sizes of every network, read from a checkpoint's config.json and tensor shapes; frozen, in data order.

`PipelineConfig` holds what published checkpoints do not state (their code has it built in). A checkpoint of another
geometry states it in config.json under `"mvgpt"`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from mvgpt_runtime.contract import Geometry
from mvgpt_runtime.errors import MvgptError
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

Shapes = Mapping[str, tuple[int, ...]]
MAX_SIZE = 1 << 20  # far above every model's; a product of two is still a size that torch can say
Size = Annotated[int, Field(gt=0, le=MAX_SIZE)]

PROMPT_RESERVE = 650
"""Positions kept for the question, the answer and a short conversation when max_context is not given."""


@dataclass(frozen=True)
class PipelineConfig:
    """The defaults are the published pipeline's (arXiv 2503.21782)."""

    num_frames: int = 16
    chunk_frames: int = 8
    select_k: int = 4
    select_largest: bool = True
    clip_head_dim: int = 64  # CLIP's head count is in no tensor's shape
    image_pool: int = 12  # side of a frame's token grid after the image projector
    video_frame_pool: int = 7  # side of a key frame's token grid after the video encoder
    video_pool: int = 7  # side of a chunk's token grid after the video projector


@dataclass(frozen=True)
class ClipConfig:
    image_size: int
    patch_size: int
    width: int
    layers: int  # as in the checkpoint; the last one never runs
    heads: int
    mlp_width: int
    norm_eps: float = 1e-5

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class ScorerConfig:
    select_k: int
    largest: bool


@dataclass(frozen=True)
class VideoMambaConfig:
    image_size: int
    patch_size: int
    width: int
    depth: int
    d_inner: int
    d_state: int
    dt_rank: int
    d_conv: int
    frames: int  # key frames of all chunks
    chunks: int
    frame_pool: int
    norm_eps: float = 1e-5

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        return self.grid**2


@dataclass(frozen=True)
class ProjectorConfig:
    in_width: int
    out_width: int
    in_side: int
    out_side: int


@dataclass(frozen=True)
class Qwen2Config:
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    tied: bool


@dataclass(frozen=True)
class ModelConfig:
    pipeline: PipelineConfig
    clip: ClipConfig
    scorer: ScorerConfig
    video: VideoMambaConfig
    image_projector: ProjectorConfig
    video_projector: ProjectorConfig
    text: Qwen2Config

    def layers(self, stage: str) -> int:
        """How many layers `stage` runs; 0 if it has none."""
        layers = {
            "image_encoder": self.clip.layers - 1,
            "video_encoder": self.video.depth,
            "text_decoder": self.text.layers,
        }
        return layers.get(stage, 0)

    def geometry(self, max_context: int | None = None, prefill_chunk: int = 512) -> Geometry:
        """The sizes hosts need. max_context defaults to the video plus PROMPT_RESERVE, rounded up to 64."""
        video, image_out, video_out = self.video, self.image_projector, self.video_projector
        geometry = Geometry(
            image_size=self.clip.image_size,
            num_frames=self.pipeline.num_frames,
            chunk_frames=self.pipeline.chunk_frames,
            select_k=self.pipeline.select_k,
            image_patches=self.clip.patches,
            image_width=self.clip.width,
            image_tokens=image_out.out_side**2,
            video_patches=self.pipeline.select_k * video.frame_pool**2,
            video_width=video.width,
            video_tokens=video_out.out_side**2,
            hidden_size=self.text.hidden_size,
            vocab_size=self.text.vocab_size,
            max_context=0,
            prefill_chunk=prefill_chunk,
        )
        if max_context is None:
            max_context = -(-(geometry.visual_tokens + PROMPT_RESERVE) // 64) * 64
        if max_context <= geometry.visual_tokens:
            raise MvgptError(
                "the KV cache is too small for one video",
                stage="text_decoder",
                expected=f"max_context > {geometry.visual_tokens} visual tokens",
                got=max_context,
            )
        return replace(geometry, max_context=max_context)


def _bad(what: str, expected: object, got: object, remedy: str | None = None) -> MvgptError:
    return MvgptError(what, stage="config.json", expected=expected, got=got, remedy=remedy)


def pipeline_config(raw: Mapping[str, Any]) -> PipelineConfig:
    """From config.json's optional `"mvgpt"` object."""
    given = raw.get("mvgpt", {})
    if not isinstance(given, dict):
        raise _bad("'mvgpt' is no object", "names and values", repr(given))
    known = {name: type(value) for name, value in asdict(PipelineConfig()).items()}
    for name, value in given.items():
        if name not in known:
            raise _bad("unknown key in 'mvgpt'", ", ".join(known), name)
        if type(value) is not known[name] or (known[name] is int and not 0 < value <= MAX_SIZE):
            raise _bad(f"bad value of mvgpt.{name}", f"a positive {known[name].__name__}", repr(value))
    pipeline = PipelineConfig(**given)
    if pipeline.num_frames % pipeline.chunk_frames or pipeline.select_k > pipeline.chunk_frames:
        raise _bad(
            "frames do not divide into chunks", "num_frames = n · chunk_frames, select_k ≤ chunk_frames", pipeline
        )
    return pipeline


class _TextFields(BaseModel):
    """config.json's Qwen2 fields; the ones with a single allowed value are variants this network does not have."""

    model_config = ConfigDict(strict=True, frozen=True)

    hidden_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    num_key_value_heads: Size
    intermediate_size: Size
    vocab_size: Size
    rms_norm_eps: PositiveFloat
    tie_word_embeddings: bool
    head_dim: Size | None = None
    rope_theta: PositiveFloat | None = None
    rope_parameters: dict[str, Any] | None = None  # where newer files keep rope_theta
    rope_scaling: None = None
    hidden_act: Literal["silu"] = "silu"
    use_sliding_window: Literal[False] = False


def text_config(raw: Mapping[str, Any]) -> Qwen2Config:
    """From config.json's Qwen2 fields; an unsupported variant is an error, as is a missing field."""
    try:
        text = _TextFields.model_validate(raw)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _bad(f"field {where!r} is missing or unsupported", first["msg"], repr(raw.get(where))) from None
    rope = text.rope_parameters or {}
    theta = rope.get("rope_theta", text.rope_theta)
    if not isinstance(theta, (int, float)) or rope.get("rope_type", "default") != "default":
        raise _bad("the rotary embedding is missing or unsupported", "a rope_theta, no scaling", rope or None)
    heads, kv_heads = text.num_attention_heads, text.num_key_value_heads
    head_dim = text.head_dim or text.hidden_size // heads
    if heads % kv_heads or head_dim % 2:
        raise _bad("attention heads do not group", "heads = n · kv_heads, head_dim even", (heads, kv_heads, head_dim))
    return Qwen2Config(
        hidden_size=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_width=text.intermediate_size,
        vocab_size=text.vocab_size,
        norm_eps=text.rms_norm_eps,
        rope_theta=float(theta),
        tied=text.tie_word_embeddings,
    )


def read_config(raw: Mapping[str, Any], clip: Shapes, video: Shapes) -> ModelConfig:
    """From config.json and the two encoders' tensor shapes (names below the encoders' prefixes)."""
    for name, expected in (
        ("mm_projector_type", "etp"),
        ("image_mm_projector_type", "etp"),
        ("mm_vision_select_layer", -2),
    ):
        if raw.get(name) != expected:
            raise _bad(f"unsupported or missing {name}", repr(expected), repr(raw.get(name)))
    pipeline, text = pipeline_config(raw), text_config(raw)
    clip_config = _clip_config(clip, pipeline)
    video_config = _video_config(video, pipeline)
    if video_config.image_size != clip_config.image_size:
        raise _bad("the two encoders want different image sizes", clip_config.image_size, video_config.image_size)
    return assemble(pipeline, clip_config, video_config, text)


def assemble(pipeline: PipelineConfig, clip: ClipConfig, video: VideoMambaConfig, text: Qwen2Config) -> ModelConfig:
    """The parts that follow from the others, filled in."""
    chunk_side = math.isqrt(pipeline.select_k * pipeline.video_frame_pool**2)
    if chunk_side**2 != pipeline.select_k * pipeline.video_frame_pool**2:
        raise _bad("a chunk's video tokens form no square grid", "a square select_k", pipeline.select_k)
    return ModelConfig(
        pipeline=pipeline,
        clip=clip,
        scorer=ScorerConfig(pipeline.select_k, pipeline.select_largest),
        video=video,
        image_projector=ProjectorConfig(
            clip.width, text.hidden_size, clip.image_size // clip.patch_size, pipeline.image_pool
        ),
        video_projector=ProjectorConfig(video.width, text.hidden_size, chunk_side, pipeline.video_pool),
        text=text,
    )


def _shape(shapes: Shapes, name: str, rank: int, network: str) -> tuple[int, ...]:
    got = shapes.get(name)
    if got is None or len(got) != rank or 0 in got:
        raise MvgptError(
            f"tensor {name!r} of the {network} is missing or malformed",
            stage="checkpoint",
            expected=f"{rank} dimensions, none of them 0",
            got=got,
            remedy="is this a Mobile-VideoGPT checkpoint? Encoders may also be given apart (--clip, --videomamba)",
        )
    return got


def _grid(positions: int, name: str) -> int:
    side = math.isqrt(positions - 1)
    if side * side != positions - 1:
        raise MvgptError(f"{name} is no square grid plus a class token", stage="checkpoint", got=positions)
    return side


def _count(shapes: Shapes, prefix: str) -> int:
    """Layers that have at least one tensor; one after a hole in the numbering shows up as unused later."""
    return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})


def _clip_config(shapes: Shapes, pipeline: PipelineConfig) -> ClipConfig:
    positions, width = _shape(shapes, "embeddings.position_embedding.weight", 2, "image encoder")
    patch = _shape(shapes, "embeddings.patch_embedding.weight", 4, "image encoder")[-1]
    mlp_width = _shape(shapes, "encoder.layers.0.mlp.fc1.weight", 2, "image encoder")[0]
    if width % pipeline.clip_head_dim:
        raise _bad("the image encoder's width is no multiple of clip_head_dim", pipeline.clip_head_dim, width)
    size = patch * _grid(positions, "the image encoder's position embedding")
    layers = _count(shapes, "encoder.layers.")
    if layers < 2:
        raise MvgptError("the image encoder has no layer to run", stage="checkpoint", expected="≥ 2 layers", got=layers)
    return ClipConfig(size, patch, width, layers, width // pipeline.clip_head_dim, mlp_width)


def _video_config(shapes: Shapes, pipeline: PipelineConfig) -> VideoMambaConfig:
    _, positions, width = _shape(shapes, "pos_embed", 3, "video encoder")
    frames = _shape(shapes, "temporal_pos_embedding", 3, "video encoder")[1]
    patch = _shape(shapes, "patch_embed.proj.weight", 5, "video encoder")[-1]
    d_inner, d_state = _shape(shapes, "layers.0.mixer.A_log", 2, "video encoder")
    dt_rank = _shape(shapes, "layers.0.mixer.dt_proj.weight", 2, "video encoder")[1]
    d_conv = _shape(shapes, "layers.0.mixer.conv1d.weight", 3, "video encoder")[2]
    chunks = pipeline.num_frames // pipeline.chunk_frames
    if frames != chunks * pipeline.select_k:
        raise _bad("the video encoder's frames are not the key frames", chunks * pipeline.select_k, frames)
    size = patch * _grid(positions, "the video encoder's position embedding")
    depth = _count(shapes, "layers.")
    return VideoMambaConfig(
        size, patch, width, depth, d_inner, d_state, dt_rank, d_conv, frames, chunks, pipeline.video_frame_pool
    )


# --- Geometries known by name (`mvgpt export random:NAME`): the published checkpoints' and the embedded default's ---
def _published(text: Qwen2Config) -> ModelConfig:
    pipeline = PipelineConfig()
    clip = ClipConfig(image_size=224, patch_size=16, width=768, layers=12, heads=12, mlp_width=3072)
    video = VideoMambaConfig(224, 16, 576, 32, 1152, 16, 36, 4, frames=8, chunks=2, frame_pool=7)
    return assemble(pipeline, clip, video, text)


def _tiny() -> ModelConfig:
    # 48 px in 8 px patches: a 6×6 grid, whose pooling (6 → 4) has overlapping windows as 14 → 12 has.
    pipeline = PipelineConfig(clip_head_dim=32, image_pool=4, video_frame_pool=3, video_pool=6)
    clip = ClipConfig(image_size=48, patch_size=8, width=128, layers=4, heads=4, mlp_width=512)
    video = VideoMambaConfig(48, 8, 96, 3, 192, 8, 6, 4, frames=8, chunks=2, frame_pool=3)
    # 6 query heads in 2 groups: as in the published model, more than one group and more than one head in each.
    text = Qwen2Config(192, 4, 6, 2, 32, 512, 600, norm_eps=1e-6, rope_theta=1e6, tied=True)
    return assemble(pipeline, clip, video, text)


NAMED_CONFIGS = {
    "0.5b": _published(Qwen2Config(896, 24, 14, 2, 64, 4864, 151666, norm_eps=1e-6, rope_theta=1e6, tied=True)),
    "1.5b": _published(Qwen2Config(1536, 28, 12, 2, 128, 8960, 151666, norm_eps=1e-6, rope_theta=1e6, tied=True)),
    "tiny": _tiny(),
}


def config_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json that `read_config` reads back (with the encoders' shapes) as `config`."""
    text = config.text
    return {
        "architectures": ["MobileVideoGPTQwenForCausalLM"],
        "model_type": "MobileVideoGPT_qwen",
        "hidden_size": text.hidden_size,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads,
        "head_dim": text.head_dim,
        "intermediate_size": text.mlp_width,
        "vocab_size": text.vocab_size,
        "hidden_act": "silu",
        "rms_norm_eps": text.norm_eps,
        "rope_theta": text.rope_theta,
        "tie_word_embeddings": text.tied,
        "mm_projector_type": "etp",
        "image_mm_projector_type": "etp",
        "mm_vision_select_layer": -2,
        "mvgpt": asdict(config.pipeline),
    }
