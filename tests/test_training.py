"""Training: the batched networks give the model's numbers, the scan its gradients, a resumed run the same weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mvgpt_export.checkpoint import load_model
from mvgpt_export.config import NAMED_CONFIGS
from mvgpt_export.ops.selective_scan import selective_scan_loop
from mvgpt_export.random_weights import random_model
from mvgpt_runtime.synthetic import ask_about, draw, scene
from mvgpt_runtime.synthetic.scenes import COLOURS, MAX_SEED
from safetensors.torch import load_file
from torch import nn

from training import network
from training.batches import DRAWS, Batches
from training.labels import MOST, NOTHING
from training.muon import Muon, orthogonalised
from training.scan import selective_scan
from training.stages import STAGES
from training.train import THREADS, gradients, initial_model, optimizers, train
from training.trainee import Trainee

TOKENIZER = (files("mvgpt_export") / "data" / "tiny" / "tokenizer.json").read_text(encoding="utf-8")
CONFIG = NAMED_CONFIGS["tiny"]
GRID = CONFIG.clip.image_size // CONFIG.clip.patch_size


def batches(clips: int = 2, length: int = 300) -> Batches:
    return Batches(TOKENIZER, CONFIG, seed=0, clips=clips, length=length)


def test_the_scan_and_its_gradients_equal_the_loops() -> None:
    torch.manual_seed(0)
    steps, directions, clips, channels, states = 7, 2, 3, 5, 4
    shapes = [(steps, directions, clips, channels)] * 2 + [(directions, channels, states)]
    shapes += [(steps, directions, clips, states)] * 2
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    u, raw, log, B, C = inputs
    delta, A = F.softplus(raw), -log.exp()
    y = selective_scan(u, delta, A, B, C)
    nothing = torch.zeros(channels, dtype=torch.float64)
    expected = torch.stack(
        [
            torch.stack(
                [
                    selective_scan_loop(u[:, g, i], delta[:, g, i], A[g], B[:, g, i], C[:, g, i], nothing)
                    for i in range(clips)
                ],
                dim=1,
            )
            for g in range(directions)
        ],
        dim=1,
    )
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(y)
    ours = torch.autograd.grad((y * weights).sum(), inputs, retain_graph=True)
    theirs = torch.autograd.grad((expected * weights).sum(), inputs)
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-10, atol=1e-10)
    assert float("5e-324") * len(ours) > 0  # loading the library must not flush subnormal numbers to zero


def test_a_batch_gives_the_models_numbers() -> None:
    """Visual tokens, key frames, and the logits of questions in one sequence, beside the eager model's."""
    model, data = random_model(CONFIG), batches()
    batch, prefix = data[0], data.prefix()
    with torch.no_grad():
        features = network.image_features(model, batch.frames)
        key = network.key_frames(model, network.frame_scores(model, features))
        pixels = torch.stack([frames[k] for frames, k in zip(batch.frames, key, strict=True)])
        visual = network.visual_tokens(model, features, network.video_features(model.video_encoder, pixels))
        start, embed = len(prefix) + visual.shape[1], model.language_model.embed_tokens
        before = embed(torch.tensor(prefix)).expand(len(visual), -1, -1)
        positions = torch.cat([torch.arange(start).expand(len(visual), -1), start + batch.places], dim=1)
        *_, hidden = network.hidden_states(
            model.language_model, torch.cat([before, visual, embed(batch.ids)], dim=1), positions, batch.blocks
        )
        logits = (hidden[:, start:] @ embed.weight.T).numpy()
    for i in range(len(visual)):
        for block in (0, int(batch.blocks[i].max())):
            rows = (batch.blocks[i] == block).nonzero().flatten()
            trace = model.trace(batch.frames[i].numpy(), prefix, batch.ids[i, rows].tolist())
            assert (trace["selected"] + [[0], [8]]).flatten().tolist() == key[i].tolist()
            np.testing.assert_allclose(visual[i].numpy(), trace["visual_tokens"], atol=2e-5)
            np.testing.assert_allclose(logits[i, rows[-1]], trace["logits"], atol=2e-5)


def test_targets_are_the_answers() -> None:
    data = batches(clips=10)
    batch = data[0]
    for i in range(10):
        asked = {
            (q.text, q.answer) for seed in range(DRAWS) for q in ask_about(scene(MAX_SEED, i), MAX_SEED + seed, i)
        }  # fmt: skip
        for block in range(int(batch.blocks[i].max()) + 1):
            here = batch.blocks[i] == block
            if not here.any():
                continue  # it did not fit
            ids, targets = batch.ids[i][here], batch.targets[i][here]
            assert targets.tolist() == [*ids[1:].tolist(), NOTHING]
            answer = data.tokenizer.decode(targets[batch.answers[i][here]].tolist(), skip_special_tokens=False)
            text = data.tokenizer.decode(batch.ids[i][here].tolist(), skip_special_tokens=False)
            question = text.split("<|im_end|>")[0].strip()
            assert (question, answer.removesuffix("<|im_end|>")) in asked
            assert answer.endswith("<|im_end|>")


def test_words_stand_for_objects() -> None:
    data = batches(clips=20)
    batch, stood = data[0], set()
    for i in range(20):
        objects = scene(MAX_SEED, i).objects
        for token, (which, many, _) in zip(batch.ids[i].tolist(), batch.mentions[i].tolist(), strict=True):
            word = data.tokenizer.decode([token]).strip()
            if many == NOTHING:
                continue
            assert (which == MOST, 0 <= which < len(objects), which == NOTHING) == (many == 0, many == 1, many > 1)
            if which == MOST or many > 1:
                continue
            thing = objects[which]
            described = {thing.colour, thing.shape, f"{thing.shape}s", f"{thing.shape}es"}
            if thing.does == "flash":
                described |= {"up", "moment"}
            if thing.does in ("appear", "vanish"):
                at = [o.at for o in objects]
                described |= {"first"} if thing.at == min(at) else {"last"} if thing.at == max(at) else set()
            if len(objects) == 1:
                described |= {"objects"}
            assert word in described
            stood.add(word)
    assert {"up", "first", "last", "red", "circle"} <= stood


def test_labels_are_where_the_colours_are() -> None:
    batch = batches(clips=20, length=0)[0]
    size = CONFIG.clip.patch_size
    patches = batch.frames.unflatten(3, (GRID, size)).unflatten(2, (GRID, size)).permute(0, 1, 2, 4, 3, 5, 6).float()
    patches = patches.reshape(20, 16, GRID * GRID, size * size, 3)
    distances = torch.stack([(patches - torch.tensor(c)).abs().amax(-1).amin(-1) for c in COLOURS.values()], dim=-1)
    there = batch.things >= 0
    every = batch.objects.unsqueeze(1).expand(-1, 16, -1, -1)
    colours = batch.of_patches(every, torch.arange(16).expand(20, -1))[..., :1]
    own = distances[there].gather(1, colours[there])
    assert (own < 45).float().mean() > 0.95  # one pixel of the colour; a patch at a corner of its object may have none
    assert (distances[~there].amin(-1) < 45).float().mean() < 0.15  # the edge of an object in the next patch


def test_frames_drawn_alone_are_those_of_the_clip() -> None:
    what = scene(MAX_SEED, 3)
    assert (draw(what, 48, [2, 11]) == draw(what, 48)[[2, 11]]).all()


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_muon_is_torchs(shape: tuple[int, int]) -> None:
    """Which computes in bfloat16: steps are compared to its precision."""
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    optims = (
        Muon([ours], lr=1e-2, weight_decay=0.05),
        torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        gradient = torch.randn(shape)
        for p, optim in zip((ours, theirs), optims, strict=True):
            p.grad = gradient.clone()
            optim.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved
    values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
    assert 0.5 < values.min() <= values.max() < 1.3


def test_a_batch_is_shared_between_threads() -> None:
    """The gradient is the mean of its shares' gradients."""
    stage, data = replace(STAGES[-1], batch=4), batches(clips=4)
    trainee = Trainee(initial_model(0), data.tokenizer, data.prefix())
    optimizers(trainee, stage)  # which freezes the encoders
    batch = data[0]
    with ThreadPoolExecutor(THREADS) as threads:
        gradients(trainee, stage, batch, False, threads)
    got = {name: p.grad for name, p in trainee.named_parameters() if p.grad is not None}
    trainee.zero_grad()
    for share in batch.shares(THREADS):
        (trainee(share, stage)[0] / THREADS).backward()
    expected = {name: p.grad for name, p in trainee.named_parameters() if p.grad is not None}
    torch.testing.assert_close(got, expected)
    parts = ("model.image_p", "model.video_p", "model.language", "labels.known", "labels.since", "labels.meant")
    assert got.keys() == {n for n, _ in trainee.named_parameters() if n.startswith(parts)}


def test_an_interrupted_training_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = tuple(replace(stage, steps=2, batch=2) for stage in STAGES)

    class Stop(Exception):
        pass

    train(tmp_path / "whole", tmp_path / "a", 3, 1, False, stages)
    monkeypatch.setattr("training.train.SAVE_EVERY_S", -1.0)
    count = 0

    def stop(*args: object) -> None:
        nonlocal count
        count += 1
        if count == 4:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr("training.train.Reports.add", stop)
        with pytest.raises(Stop):
            train(tmp_path / "cut", tmp_path / "b", 3, 1, False, stages)
    assert not (tmp_path / "cut").exists()
    train(tmp_path / "cut", tmp_path / "b", 3, 1, False, stages)
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert sum(t.nbytes for t in whole.values()) < 12e6
    start, other = load_model(tmp_path / "whole"), random_model(CONFIG, 3)
    same = [torch.equal(a, b) for a, b in zip(start.parameters(), other.parameters(), strict=True)]
    assert not any(same)  # every parameter was trained
