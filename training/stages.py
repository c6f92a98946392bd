"""What each stage of training optimises, and how long.

1. "images": the image encoder learns to say of every patch which colour and shape it shows, on a few frames of many
   clips, since frames of one clip resemble each other. With the next stage, this is in place of the large pretrained
   encoders that the published model starts from.
2. "encoders": both encoders learn that, the video encoder also what the object does, and the frame scorer's features
   learn to draw attention to frames in which something flashes up.
3. "words": the language model learns to answer from descriptions in words, in place of the pretrained one.
4. "answers": projectors and language model learn to answer from the video; the encoders stay.
5. "together": everything, end to end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_runtime.synthetic import TYPES
from mvgpt_runtime.synthetic.scenes import COLOURS, SHAPES
from torch import nn

from . import network
from .batches import DOES, NOTHING, Batch

LOOKS = (len(COLOURS) + 1, len(SHAPES) + 1)


@dataclass(frozen=True)
class Stage:
    name: str
    steps: int
    batch: int  # clips
    rate: float  # AdamW's, at its highest
    image_rate: float | None = None  # of the image encoder, if another
    images: int = 0  # frames per clip if the image encoder is trained alone
    encoders: bool = False  # whether both are trained
    answers: bool = False  # whether there are questions
    words: bool = False  # whether these are about descriptions instead of videos


STAGES = (
    Stage("images", 4000, 16, 1e-3, images=4),
    Stage("encoders", 800, 8, 1e-3, image_rate=1e-4, encoders=True),
    Stage("words", 1200, 12, 1.5e-3, answers=True, words=True),
    Stage("answers", 1500, 8, 1e-3, answers=True),
    Stage("together", 700, 8, 7e-4, image_rate=2e-4, encoders=True, answers=True),
)


class Labels(nn.Module):
    """The heads that read labels off both encoders' features; of no use after training."""

    def __init__(self, image_width: int, video_width: int) -> None:
        super().__init__()
        self.image = nn.Linear(image_width, sum(LOOKS) + 2)
        self.video = nn.Linear(video_width, sum(LOOKS) + len(DOES) + 1)


class Trainee(nn.Module):
    """The model with its label heads. Called with a batch, it gives the loss and what to report."""

    def __init__(self, model: VideoGPT, prefix: list[int]) -> None:
        super().__init__()
        self.model, self.prefix = model, torch.tensor(prefix)
        self.labels = Labels(model.config.clip.width, model.config.video.width)

    def forward(self, batch: Batch, stage: Stage) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model = self.model
        report: dict[str, torch.Tensor] = {}
        if stage.images:
            clips, frames = batch.flashes.shape
            apart = frames // stage.images
            some = torch.arange(clips).unsqueeze(1) % apart + apart * torch.arange(stage.images)
            features = network.image_features(model, batch.frames[torch.arange(clips).unsqueeze(1), some])
            return self._image_labels(batch, features, some, report), report
        if stage.words:
            return self._answers(batch, None, report), report
        with torch.set_grad_enabled(stage.encoders):
            features = network.image_features(model, batch.frames)
            scores = network.frame_scores(model, features)
            key = network.key_frames(model, scores)
            key_pixels = torch.stack([frames[k] for frames, k in zip(batch.frames, key, strict=True)])
            video = network.video_features(model.video_encoder, key_pixels)
        loss = torch.zeros(())
        if stage.encoders:
            every = torch.arange(features.shape[1]).expand_as(batch.flashes)
            loss = loss + self._image_labels(batch, features, every, report)
            loss = loss + self._video_labels(batch, features, scores, video, key, report)
        if stage.answers:
            loss = loss + self._answers(batch, network.visual_tokens(model, features, video), report)
        return loss, report

    def _image_labels(
        self, batch: Batch, features: torch.Tensor, frames: torch.Tensor, report: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """`features` are of `frames`, int64 [B, n]."""
        clip = torch.arange(len(frames)).unsqueeze(1)
        colours, shapes, offsets = (label[clip, frames] for label in (batch.colours, batch.shapes, batch.offsets))
        colour, shape, offset = self.labels.image(features).float().split([*LOOKS, 2], dim=-1)
        report["colours"], report["shapes"] = _right(colour, colours), _right(shape, shapes)
        distance = (offset - offsets)[colours > 0].abs().mean()
        report["offset"] = distance.detach().unsqueeze(0)
        return _balanced(colour, colours) + _balanced(shape, shapes) + 0.5 * distance

    def _video_labels(
        self,
        batch: Batch,
        features: torch.Tensor,
        scores: torch.Tensor,
        video: torch.Tensor,
        key: torch.Tensor,
        report: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        loss = torch.zeros(())
        clip = torch.arange(len(key)).unsqueeze(1)
        labels = [label[clip, key] for label in (batch.colours, batch.shapes, batch.does)]
        read = self.labels.video(video).float().split([*LOOKS, len(DOES) + 1], dim=-1)
        for logits, label in zip(read, labels, strict=True):
            loss = loss + _balanced(logits, label)
        video_colour, video_shape, does = (_right(x, label) for x, label in zip(read, labels, strict=True))
        report |= {"video colours": video_colour, "video shapes": video_shape, "does": does}

        flashes = batch.flashes.reshape(scores.shape)
        chunks = flashes.any(-1)
        if chunks.any():
            tokens = features.shape[2]
            share = torch.log_softmax(20 * scores[chunks] / tokens, dim=-1)  # a frame's score is around its tokens
            wanted = flashes[chunks].float()
            loss = loss - 0.5 * (share * wanted).sum(-1).div(wanted.sum(-1)).mean()
            picked = torch.zeros_like(flashes.flatten(1)).scatter_(1, key, True).reshape(scores.shape)
            report["flash picked"] = (picked & flashes)[chunks].any(-1).float()
        return loss

    def _answers(self, batch: Batch, visual: torch.Tensor | None, report: dict[str, torch.Tensor]) -> torch.Tensor:
        """`visual` [B, n, hidden], or None if questions come with descriptions."""
        lm, clips = self.model.language_model, len(batch.ids)
        before = lm.embed_tokens(self.prefix).expand(clips, -1, -1)
        if visual is not None:
            before = torch.cat([before, visual], dim=1)
        start = before.shape[1]
        embeddings = torch.cat([before, lm.embed_tokens(batch.ids)], dim=1)
        positions = torch.cat([torch.arange(start).expand(clips, -1), start + batch.places], dim=1)
        hidden = network.hidden_states(lm, embeddings, positions, batch.blocks)[:, start:]
        asked = batch.targets != NOTHING
        head = lm.embed_tokens if lm.config.tied else lm.lm_head
        logits = F.linear(hidden[asked], head.weight).float()
        losses = F.cross_entropy(logits, batch.targets[asked], reduction="none")
        answer = batch.answers[asked]
        loss = losses[answer].mean()
        report["loss"], report["question loss"] = loss.detach().unsqueeze(0), losses[~answer].detach()

        right = logits.argmax(-1) == batch.targets[asked]
        wrong = torch.zeros(clips, int(batch.blocks.max()) + 1)
        rows = torch.arange(clips).unsqueeze(1).expand_as(asked)[batch.answers]
        wrong.index_put_((rows, batch.blocks[batch.answers]), (~right[answer]).float(), accumulate=True)
        for i, name in enumerate(TYPES):
            of_type = batch.answers & (batch.types == i)
            pairs = torch.unique(torch.stack([torch.nonzero(of_type)[:, 0], batch.blocks[of_type]], dim=1), dim=0)
            report[name] = (wrong[pairs[:, 0], pairs[:, 1]] == 0).float()
        report["all"] = torch.cat([report[name] for name in TYPES])
        # What is asked about is there: questions, too, teach to look for it, in many more tokens than answers.
        return loss + losses[~answer].mean()


def _balanced(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy, half of it over patches with an object: most have none."""
    logits, labels = logits.flatten(0, -2), labels.flatten()
    losses, there = F.cross_entropy(logits, labels, reduction="none"), labels > 0
    return 0.5 * losses[there].sum() / there.sum().clamp(min=1) + 0.5 * losses[~there].mean()


def _right(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of patches with an object: 1 where the likeliest label but the background is the true one."""
    there = labels > 0
    return (logits[there][:, 1:].argmax(-1) == labels[there] - 1).float()
