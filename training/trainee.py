"""What the stages optimise: losses of labels that are read off the networks, and of answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_runtime.synthetic import TYPES
from tokenizers import Tokenizer
from torch import nn

from . import network
from .batches import Batch, of_clips
from .ideal import Ideal, share
from .labels import DOES, LOOKS, MOST, NOTHING, TURNS
from .stages import Stage

Report = dict[str, torch.Tensor]
SEEN = (*(n + 1 for n in LOOKS), 3)  # of a patch: colour and shape, 0 for the background; place
WAYS = 9  # of an object to the next and from the last key frame, and all in all: x, y and log radius
KNOWN = (len(DOES), len(TURNS), MOST, MOST, MOST, WAYS)  # of a video token's objects
MEANT = (*(n + 1 for n in LOOKS), len(DOES) + 1, len(TURNS) + 1, MOST + 1)
"""Of the object that a word stands for, 0 if there is none; how many there are."""
STANDING = 0.3  # weight of objects that do nothing, which most do
QUESTIONS = 0.3  # their share of the loss, beside answers


class Labels(nn.Module):
    """The heads that read labels off encoders' features and the language model's states; of no use after training."""

    def __init__(self, image_width: int, video_width: int, language_width: int) -> None:
        super().__init__()
        self.image = nn.Linear(image_width, sum(SEEN))
        self.video = nn.Linear(video_width, sum(SEEN))
        self.since = nn.Linear(language_width, 3)
        self.known = nn.Linear(language_width, sum(KNOWN))
        self.meant = nn.Linear(language_width, sum(MEANT))


class Trainee(nn.Module):
    """The model with what only training needs. Called with a batch, it gives the loss and what to report."""

    def __init__(self, model: VideoGPT, tokenizer: Tokenizer, prefix: list[int]) -> None:
        super().__init__()
        self.model, self.prefix = model, torch.tensor(prefix)
        self.labels = Labels(model.config.clip.width, model.config.video.width, model.config.text.hidden_size)
        self.ideal = Ideal(model.config, tokenizer)

    def forward(self, batch: Batch, stage: Stage) -> tuple[torch.Tensor, Report]:
        model, report = self.model, Report()
        match stage.name:
            case "images":
                features = network.image_features(model, batch.frames)
                return self._seen(self.labels.image(features), batch, report), report
            case "pairs" | "video":
                slots = (batch.shown.unsqueeze(2) == batch.keys.unsqueeze(1)).int().argmax(2)
                video = network.video_features(model.video_encoder, batch.frames, slots)
                return self._seen(self.labels.video(video), batch, report), report
            case "tracks" | "reading":
                visual = self.ideal(model.language_model, batch, batch.keys)
                return self._language(batch, visual, batch.keys, report), report
        features = network.image_features(model, batch.frames)
        scores = network.frame_scores(model, features)
        key = network.key_frames(model, scores)
        if stage.name == "scores":
            seen = self._seen(self.labels.image(features), batch, report)
            return seen + self._flashes(batch, scores, key, report), report
        video = network.video_features(model.video_encoder, of_clips(batch.frames, key))
        visual = network.visual_tokens(model, features, video)
        if stage.name == "projectors":
            ideal = self.ideal(model.language_model, batch, key)
            distance = (visual - ideal).square().mean() / ideal.var()
            report["distance"] = distance.detach().unsqueeze(0)
            return distance, report
        return self._language(batch, visual, key, report), report

    def _seen(self, read: torch.Tensor, batch: Batch, report: Report) -> torch.Tensor:
        """`read` [B, n, patches, SEEN] off an encoder's features of the frames shown."""
        colour, shape, place = read.float().split(SEEN, dim=-1)
        there = of_clips(batch.things, batch.shown) >= 0
        every = batch.objects.unsqueeze(1).expand(-1, batch.shown.shape[1], -1, -1)
        looks = torch.where(there.unsqueeze(-1), batch.of_patches(every, batch.shown) + 1, 0)
        places = batch.of_patches(of_clips(batch.tracks, batch.shown), batch.shown)
        misplaced = (place - places)[there].square().mean()
        report["misplaced"] = misplaced.detach().unsqueeze(0)
        loss = 2 * misplaced
        for i, (name, logits) in enumerate((("colours", colour), ("shapes", shape))):
            losses = F.cross_entropy(logits.flatten(0, -2), looks[..., i].flatten(), reduction="none")
            of_objects = losses[there.flatten()].sum() / there.sum().clamp(min=1)
            loss = loss + 0.5 * of_objects + 0.5 * losses[~there.flatten()].mean()  # most patches have none
            report[name] = (logits[there][:, 1:].argmax(-1) == looks[there][:, i] - 1).float()
        return loss

    def _flashes(self, batch: Batch, scores: torch.Tensor, key: torch.Tensor, report: Report) -> torch.Tensor:
        """The frame scorer has no weights and its choice no gradient, but its scores have one, towards features."""
        flashes = batch.flashes.reshape(scores.shape)
        chunks = flashes.any(-1)
        if not chunks.any():
            return torch.zeros(())
        picked = torch.zeros_like(batch.flashes).scatter_(1, key, True).reshape(scores.shape)
        report["flash picked"] = (picked & flashes)[chunks].any(-1).float()
        tokens = self.model.config.clip.patches
        softened = torch.log_softmax(20 * scores[chunks] / tokens, dim=-1)  # a frame's score is around its tokens
        wanted = flashes[chunks].float()
        return -0.5 * (softened * wanted).sum(-1).div(wanted.sum(-1)).mean()

    def _language(self, batch: Batch, visual: torch.Tensor, key: torch.Tensor, report: Report) -> torch.Tensor:
        """`visual` [B, n, hidden]; the key frames int64 [B, K]."""
        lm, clips = self.model.language_model, len(batch.ids)
        before = torch.cat([lm.embed_tokens(self.prefix).expand(clips, -1, -1), visual], dim=1)
        start = before.shape[1]
        embeddings = torch.cat([before, lm.embed_tokens(batch.ids)], dim=1)
        positions = torch.cat([torch.arange(start).expand(clips, -1), start + batch.places], dim=1)
        *_, halfway, nearly, hidden = network.hidden_states(lm, embeddings, positions, batch.blocks)
        loss = self._known(batch, halfway[:, len(self.prefix) : start], key, report)
        if batch.ids.shape[1]:
            loss = loss + self._meant(batch, nearly[:, start:], report)
            loss = loss + self._answers(batch, hidden[:, start:], report)
        return loss

    def _answers(self, batch: Batch, hidden: torch.Tensor, report: Report) -> torch.Tensor:
        lm, clips = self.model.language_model, len(batch.ids)
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
        return loss + QUESTIONS * losses[~answer].mean()

    def _known(self, batch: Batch, visual: torch.Tensor, key: torch.Tensor, report: Report) -> torch.Tensor:
        """What states [B, visual tokens, hidden] halfway should know: of an image token, how far its objects have come
        since the first frame; of a video token, what they do, when, how far they go, and how many are alike."""
        pool = self.ideal.video_pool
        there = (of_clips(batch.things, key) >= 0).unsqueeze(-1).float()
        parts = share(pool, there)
        *logits, way = self.labels.known(visual[:, -parts.shape[1] :]).float().split(KNOWN, dim=-1)
        objects = batch.objects.unsqueeze(1).expand(-1, key.shape[1], -1, -1)[..., len(LOOKS) :]
        labels = batch.of_patches(objects, key)
        ways = batch.of_patches(_ways(of_clips(batch.tracks, key)), key)
        loss = self._since(batch, visual[:, : -parts.shape[1]], report)
        loss = loss + _missed(way, share(pool, ways * there), parts, "way", report)
        moves = torch.where(labels[..., :1] == DOES.index("stand"), STANDING, 1.0)
        for i, (name, values) in enumerate(zip(("does", "turn", "alike", "shaped", "all"), logits, strict=True)):
            wanted = share(pool, F.one_hot(labels[..., i], values.shape[-1]) * there * moves)
            loss = loss - (wanted * values.log_softmax(-1)).sum() / parts.sum()
            report[f"known {name}"] = (wanted.argmax(-1) == values.argmax(-1))[parts[..., 0] > 0.3].float()
        return loss

    def _since(self, batch: Batch, states: torch.Tensor, report: Report) -> torch.Tensor:
        every = torch.arange(batch.things.shape[1]).expand(len(states), -1)
        there = (batch.things >= 0).unsqueeze(-1).float()
        ways = batch.of_patches(batch.tracks - batch.tracks[:, :1], every) * there
        pool = self.ideal.image_pool
        return _missed(self.labels.since(states).float(), share(pool, ways), share(pool, there), "since", report)

    def _meant(self, batch: Batch, states: torch.Tensor, report: Report) -> torch.Tensor:
        """What states [B, n, hidden] before the last layer should know of the object that a question's word means."""
        which, many, named = batch.mentions.unbind(-1)
        said = many != NOTHING
        objects = F.pad(batch.objects[..., : len(MEANT) - 1] + 1, (0, 0, 0, 1))
        which, many, named = which[said], many[said], named[said] > 0
        labels = objects[said.nonzero()[:, 0], which.clamp(min=0)].masked_fill((which < 0).unsqueeze(1), NOTHING)
        labels = torch.cat([labels, many.unsqueeze(1)], dim=1)
        logits = self.labels.meant(states[said]).float().split(MEANT, dim=-1)
        loss = torch.zeros(())
        for i, (name, values) in enumerate(zip(("colour", "shape", "does", "turn", "number"), logits, strict=True)):
            losses = F.cross_entropy(values, labels[:, i], reduction="none", ignore_index=NOTHING)
            for kind, those in (("named", named), ("described", ~named)):
                those = those & (labels[:, i] != NOTHING)
                loss = loss + losses[those].sum() / those.sum().clamp(min=1)
                report[f"{kind} {name}"] = (values.argmax(-1) == labels[:, i])[those].float()
        return loss


def _ways(places: torch.Tensor) -> torch.Tensor:
    """[B, K, objects, 3] → [B, K, objects, WAYS]."""
    after = torch.cat([places[:, 1:], places[:, -1:]], dim=1) - places
    before = places - torch.cat([places[:, :1], places[:, :-1]], dim=1)
    whole = (places[:, -1:] - places[:, :1]).expand_as(places)
    return torch.cat([after, before, whole], dim=-1)


def _missed(guessed: torch.Tensor, ways: torch.Tensor, parts: torch.Tensor, name: str, report: Report) -> torch.Tensor:
    """The squared error of ways, per patch with an object, of which a token has `parts`; and reported."""
    missed = (parts * guessed - ways).square().sum() / parts.sum().clamp(min=1)
    report[f"{name} missed"] = missed.detach().unsqueeze(0)
    return missed
