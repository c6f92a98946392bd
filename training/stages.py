"""What each stage of training shows and trains, and how long; `Trainee` has what it optimises.

1. "images": the image encoder learns to say of every patch which colour and shape it shows, and where the object is, on
   a few frames of many clips, since frames of one clip resemble each other.
2. "pairs", "video": so does the video encoder, on two and on all key frames. These stages are in place of the large
   pretrained encoders that the published model starts from.
3. "scores": the frame scorer's features learn to draw attention to frames in which something flashes up.
4. "tracks": the language model learns, on ideal visual tokens, to say of every one what its object does, and when.
5. "reading": it learns to answer questions about them, in place of the pretraining that a published one brings.
6. "projectors": these learn to make such tokens of the encoders' features.
7. "answers": projectors and language model learn to answer from the video; the encoders stay.
"""

from __future__ import annotations

from dataclasses import dataclass

from mvgpt_runtime.synthetic.scenes import KINDS, Kind

from .batches import Shown


@dataclass(frozen=True)
class Stage:
    """`trains` are beginnings of parameters' names."""

    name: str
    steps: int
    batch: int  # clips
    rate: float  # of AdamW, at its highest; Muon's is `train.MUON` times that
    trains: tuple[str, ...]
    shown: Shown = "all"
    kinds: tuple[Kind, ...] = KINDS
    answers: bool = False  # whether there are questions


_IMAGE = ("model.image_encoder", "labels.image")
_VIDEO = ("model.video_encoder", "labels.video")
_PROJECTORS = ("model.image_projector", "model.video_projector")
_LANGUAGE = ("model.language_model", "labels.known", "labels.since", "labels.meant")

STAGES = (
    Stage("images", 2000, 16, 1e-3, _IMAGE, shown="moments"),
    Stage("pairs", 1000, 32, 1e-3, _VIDEO, shown="pairs"),
    Stage("video", 600, 8, 1e-3, _VIDEO, shown="keys"),
    Stage("scores", 400, 8, 2e-4, _IMAGE),
    Stage("tracks", 800, 8, 1.5e-3, (*_LANGUAGE, "ideal"), shown="none", kinds=KINDS[1:]),
    Stage("reading", 700, 8, 1.2e-3, (*_LANGUAGE, "ideal"), shown="none", answers=True),
    Stage("projectors", 500, 8, 3e-3, _PROJECTORS),
    Stage("answers", 2100, 8, 7e-4, (*_PROJECTORS, *_LANGUAGE), answers=True),
)
