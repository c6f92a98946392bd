"""The contract between exporter, bundles and hosts: stages in data order, tensors, constants, metric names.

Standard library only. Every other file (and the phone SDKs) reads or generates from here; a fact that is here is
nowhere else. Sizes are symbolic: a `Geometry`, read from the artifact, gives them their values.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

CONTRACT_VERSION = 1
"""Raised whenever a stage's tensors, their meaning or the metadata change; hosts refuse other versions."""

MANIFEST_SCHEMA_VERSION = 4
VECTORS_SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
VECTORS_NAME = "vectors.json"
"""The manifest of a folder of golden vectors."""
TOKENIZER_NAME = "tokenizer.json"
METADATA_METHOD = "mvgpt_metadata"
"""Method of every ExecuTorch program that returns its stamp: JSON with `contract_version`, `stages` and `geometry`.
In an ONNX model it is a metadata property of this name."""

# --- Preprocessing: the resizes are the host's (preprocess.py), the normalisation is inside the graphs ---
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Geometry:
    """Every size a host needs. Filled by the exporter from checkpoint shapes, stamped into manifest and programs."""

    image_size: int  # pixels, the side of both preprocessed streams
    num_frames: int  # frames sampled from a clip (T)
    chunk_frames: int  # frames scored together by the frame scorer
    select_k: int  # key frames kept per chunk
    image_patches: int  # image encoder tokens per frame (class token dropped)
    image_width: int  # channels of an image encoder token
    image_tokens: int  # visual tokens per frame after the image projector
    video_patches: int  # video encoder tokens per chunk after its pooling
    video_width: int  # channels of a video encoder token
    video_tokens: int  # visual tokens per chunk after the video projector
    hidden_size: int  # channels of the language model
    vocab_size: int  # rows of the embedding table = length of a logits vector
    max_context: int  # positions the KV cache holds
    prefill_chunk: int  # most positions one text_decoder or token_embedding call takes

    @property
    def num_chunks(self) -> int:
        return self.num_frames // self.chunk_frames

    @property
    def key_frames(self) -> int:
        """Frames that reach the video encoder."""
        return self.num_chunks * self.select_k

    @property
    def visual_tokens(self) -> int:
        """Visual tokens in a prompt: image tokens in frame order, then video tokens in chunk order."""
        return self.num_frames * self.image_tokens + self.num_chunks * self.video_tokens


@dataclass(frozen=True)
class Tensor:
    """One input or output. A dimension is a number, a `Geometry` field or property, or `1..LIMIT` (dynamic)."""

    name: str
    dtype: str  # numpy name
    dims: tuple[int | str, ...]

    def shape(self, geometry: Geometry) -> tuple[tuple[int, int], ...]:
        """(least, most) of every dimension."""
        return tuple(_bounds(dim, geometry) for dim in self.dims)


def _bounds(dim: int | str, geometry: Geometry) -> tuple[int, int]:
    if isinstance(dim, int):
        return dim, dim
    if dim.startswith("1.."):
        return 1, _bounds(dim[3:], geometry)[1]
    return (value := int(getattr(geometry, dim))), value


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline. `unit` is what it is loaded and unloaded with: every file of it is called so up to the
    first dot."""

    name: str
    unit: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


_FRAMES = ("image_size", "image_size", 3)

STAGES: tuple[Stage, ...] = (
    # Frames are NHWC, as video decoders, Android bitmaps and iOS pixel buffers hold them: no host transposes, and the
    # patch embedding becomes one matrix product. `frame_mask` is 1 for a frame and 0 for padding: a clip with fewer
    # than num_frames frames is padded with zeros *after* normalisation, which no uint8 pixel can say.
    Stage(
        "image_encoder",
        "image_encoder",
        (Tensor("frames", "uint8", (1, *_FRAMES)), Tensor("frame_mask", "float32", (1,))),
        (Tensor("clip_features", "float32", (1, "image_patches", "image_width")),),
    ),
    Stage(
        "frame_scorer",
        "frame_scorer",
        (Tensor("clip_features", "float32", ("chunk_frames", "image_patches", "image_width")),),
        # `selected` indexes into the chunk, in time order; equal scores: the earlier frame wins.
        (Tensor("frame_scores", "float32", ("chunk_frames",)), Tensor("selected", "int64", ("select_k",))),
    ),
    Stage(
        "video_encoder",
        "video_encoder",
        (Tensor("frames", "uint8", ("key_frames", *_FRAMES)), Tensor("frame_mask", "float32", ("key_frames",))),
        (Tensor("video_features", "float32", ("num_chunks", "video_patches", "video_width")),),
    ),
    Stage(
        "image_projector",
        "image_projector",
        (Tensor("clip_features", "float32", (1, "image_patches", "image_width")),),
        (Tensor("image_tokens", "float32", (1, "image_tokens", "hidden_size")),),
    ),
    Stage(
        "video_projector",
        "video_projector",
        (Tensor("video_features", "float32", ("num_chunks", "video_patches", "video_width")),),
        (Tensor("video_tokens", "float32", ("num_chunks", "video_tokens", "hidden_size")),),
    ),
    Stage(
        "token_embedding",
        "slm",
        (Tensor("token_ids", "int64", (1, "1..prefill_chunk")),),
        (Tensor("embeddings", "float32", (1, "1..prefill_chunk", "hidden_size")),),
    ),
    # The KV cache is inside. `start_pos` is the position of the first row of `embeddings`; passing a smaller one than
    # last time rewinds. start_pos + rows must not pass max_context (the host checks, the graph only bounds).
    Stage(
        "text_decoder",
        "slm",
        (
            Tensor("embeddings", "float32", (1, "1..prefill_chunk", "hidden_size")),
            Tensor("start_pos", "int64", (1,)),
        ),
        (Tensor("logits", "float32", (1, "vocab_size")),),  # of the last position only
    ),
)

STAGE_NAMES = tuple(stage.name for stage in STAGES)
UNITS = tuple(dict.fromkeys(stage.unit for stage in STAGES))
ENCODER_STAGES = tuple(stage.name for stage in STAGES if stage.unit != "slm")
LANGUAGE_STAGES = tuple(stage.name for stage in STAGES if stage.unit == "slm")
"""A low-memory session has either the encoders loaded or these."""


def stage(name: str) -> Stage:
    """The stage called `name`; KeyError if there is none."""
    return {s.name: s for s in STAGES}[name]


# --- Prompt: ChatML, the visual tokens stand between prefix and suffix; each piece is tokenised on its own ---
PROMPT_PREFIX = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
PROMPT_SUFFIX = "\n{question}<|im_end|>\n<|im_start|>assistant\n"
PROMPT_NEXT_TURN = "<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
"""Follows an answer when the conversation goes on. It begins with the stop token, which an answer's ids lack."""
STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")
"""Looked up in the tokenizer at export (the first must exist); their ids are stored in the manifest."""

# --- `trace` of the eager model and of a session: intermediate arrays by name, in data order ---
TRACE_KEYS = (
    "video_pixels",  # float32 [num_frames, 3, image_size, image_size], normalised
    "clip_pixels",  # the same shape
    "clip_features",  # float32 [num_frames, image_patches, image_width]
    "frame_scores",  # float32 [num_chunks, chunk_frames]
    "selected",  # int64 [num_chunks, select_k], indices into the chunk in time order
    "video_features",  # float32 [num_chunks, video_patches, video_width]
    "visual_tokens",  # float32 [visual_tokens, hidden_size]
    "logits",  # float32 [vocab_size], last position of [prefix, visual tokens, suffix]
)

# --- Metrics: one name each in Python, Kotlin, Swift and JSON (ExecuTorch's `Stats` names where it has one) ---
METRICS: dict[str, str] = {
    "model_load_ms": "time spent loading programs for this video",
    "video_decode_ms": "decoding the sampled frames",
    "preprocess_ms": "both resizes of all frames",
    **{f"{name}_ms": f"time inside {name}, all calls of the video" for name in ENCODER_STAGES},
    "video_prefill_ms": "prefill of prefix and visual tokens, while the video was loaded",
    "video_ready_ms": "the whole load, from its beginning until questions can be asked",
    "last_frame_to_ready_ms": "of this, from the arrival of the last frame (in a stream: the last add_frame call)",
    "num_video_prefilled_tokens": "positions of prefix and visual tokens",
    "video_prefill_tokens_per_s": "num_video_prefilled_tokens / video_prefill time",
    "prompt_eval_ms": "prefill of what this question added; the video's is video_prefill_ms",
    "time_to_first_token_ms": "from asking to the first token; the video was loaded before",
    "token_generation_ms": "decode steps after the first token, the caller's own time left out",
    "aggregate_sampling_time_ms": "choosing tokens from logits",
    "num_prompt_tokens": "positions of the whole prompt: prefix, visual tokens, earlier turns if kept, question",
    "num_prefilled_tokens": "of these, the ones that this question had to add to the KV cache",
    "num_generated_tokens": "tokens generated, the stop token not counted",
    "prefill_tokens_per_s": "num_prefilled_tokens / prompt_eval time",
    "decode_tokens_per_s": "decode steps / their time (the first token comes from prefill)",
    "peak_rss_bytes": "highest resident set size of the process so far",
}


def unit(file: str) -> str:
    """The unit that a bundle's file belongs to: `slm.pte`, `slm.onnx.data`, `slm.mlpackage/Manifest.json`."""
    return file.partition(".")[0]


def geometry_dict(geometry: Geometry) -> dict[str, int]:
    """The stored sizes by name (derived ones are not stored)."""
    return dataclasses.asdict(geometry)


def stamp(stage_names: list[str], geometry: Geometry) -> dict[str, object]:
    """What the artifact that holds these stages says of itself (JSON from METADATA_METHOD in ExecuTorch programs)."""
    return {"contract_version": CONTRACT_VERSION, "stages": stage_names, "geometry": geometry_dict(geometry)}
