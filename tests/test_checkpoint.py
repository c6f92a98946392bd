"""The strict loader: what it reads, and everything it must refuse."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mvgpt_export.checkpoint import load_model, open_folder, save_checkpoint
from mvgpt_export.config import NAMED_CONFIGS
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_export.random_weights import random_model
from mvgpt_export.sources import open_source
from mvgpt_runtime import MvgptError
from safetensors.torch import load_file, save_file

State = dict[str, torch.Tensor]
CLIP = "model.image_vision_tower.vision_tower.vision_model."
VIDEO = "model.vision_tower.vision_encoder."


@pytest.fixture(scope="module")
def model() -> VideoGPT:
    return random_model(NAMED_CONFIGS["tiny"])


@pytest.fixture
def folder(model: VideoGPT, tmp_path: Path) -> Path:
    save_checkpoint(model, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def edit(folder: Path, change: Callable[[State], object]) -> None:
    """Rewrite the checkpoint's tensors."""
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def edit_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(folder: Path, *words: str, **sources: Path) -> None:
    """Loading fails with one MvgptError that has all `words`."""
    with pytest.raises(MvgptError) as caught:
        load_model(folder, **sources)
    for word in words:
        assert word in str(caught.value)


def assert_same(a: VideoGPT, b: VideoGPT) -> None:
    assert a.config == b.config
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_safetensors(folder: Path, model: VideoGPT) -> None:
    assert_same(load_model(folder), model)


def test_sharded_safetensors(folder: Path, model: VideoGPT) -> None:
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    weight_map = {}
    for i, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{i:05}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert_same(load_model(folder), model)

    index.write_text(json.dumps({"weight_map": {**weight_map, "model.extra": file}}))
    refused(folder, "are in no shard", "model.extra")
    index.write_text(json.dumps({"weight_map": {**weight_map, names[0]: "../elsewhere.safetensors"}}))
    refused(folder, "outside the folder")
    index.write_text(json.dumps({"weight_map": weight_map}))
    (folder / file).unlink()
    refused(folder, file, "not found")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_pytorch_bin(folder: Path, model: VideoGPT, legacy: bool) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    assert_same(load_model(folder), model)


def test_half_precision_is_widened(folder: Path) -> None:
    edit(folder, lambda state: state.update({name: t.to(torch.bfloat16) for name, t in state.items()}))
    assert all(p.dtype == torch.float32 for p in load_model(folder).parameters())


class Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def test_code_in_a_pickle_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Exploit()}))
    refused(folder, "weights_only")
    assert not (folder / "pwned").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("keep", [0, 7, 1000, -1], ids=["empty", "7 bytes", "1000 bytes", "all but one"])
def test_truncated_files(folder: Path, name: str, keep: int) -> None:
    if name.endswith(".bin"):
        torch.save(load_file(folder / "model.safetensors"), folder / name)
        (folder / "model.safetensors").unlink()
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:keep])
    refused(folder, name, "truncated")


def names_ending(state: State, *ends: str) -> list[str]:
    return [name for name in state if name.endswith(ends)]


BACKWARD = (
    "A_b_log",
    "D_b",
    "conv1d_b.weight",
    "conv1d_b.bias",
    "x_proj_b.weight",
    "dt_proj_b.weight",
    "dt_proj_b.bias",
)


@pytest.mark.parametrize("end", BACKWARD)
def test_a_dropped_backward_tensor_is_missed(folder: Path, end: str) -> None:
    name = f"{VIDEO}layers.2.mixer.{end}"
    edit(folder, lambda state: state.pop(name))
    refused(folder, "missing (1)", name)


def test_all_backward_tensors_dropped(folder: Path) -> None:
    edit(folder, lambda state: [state.pop(name) for name in names_ending(state, *BACKWARD)])
    refused(folder, f"missing ({NAMED_CONFIGS['tiny'].video.depth * len(BACKWARD)})", "A_b_log")


def test_every_single_tensor_is_needed(folder: Path) -> None:
    """Whatever tensor is dropped, loading fails and names it."""
    state = load_file(folder / "model.safetensors")
    for name in state:
        save_file({n: t for n, t in state.items() if n != name}, folder / "model.safetensors")
        refused(folder, name.removeprefix(CLIP).removeprefix(VIDEO))


def test_unused_tensors_are_listed(folder: Path) -> None:
    edit(folder, lambda state: state.update({"model.layers.0.surprise": torch.zeros(1), "optimizer.x": torch.zeros(1)}))
    refused(folder, "unused (2)", "model.layers.0.surprise", "optimizer.x")


def test_training_only_entries_are_ignored_by_name(folder: Path, model: VideoGPT) -> None:
    extra = ("clip_decoder.0.head.weight", "clip_pos_embed", "head.weight")
    edit(folder, lambda state: state.update({VIDEO + name: torch.zeros(2) for name in extra}))
    edit(folder, lambda state: state.update({CLIP + "embeddings.position_ids": torch.arange(65)[None]}))
    assert_same(load_model(folder), model)
    edit(folder, lambda state: state.update({VIDEO + "clip_decoders": torch.zeros(2)}))
    refused(folder, "unused (1)", "clip_decoders")


def test_a_wrong_shape_is_named(folder: Path) -> None:
    name = "model.mm_projector.mlp.mlp.2.bias"
    edit(folder, lambda state: state.update({name: torch.zeros(7)}))
    refused(folder, "of another shape (1)", f"{name}: expected [192], got [7]")


def test_layers_that_only_a_name_claims(folder: Path) -> None:
    """No more layers are built than there are tensors for; "²" is a digit, and no number."""
    for index in ("999999999999", "²"):
        edit(folder, lambda state, index=index: state.update({f"{VIDEO}layers.{index}.x": torch.zeros(1)}))
    refused(folder, "999999999999", "²")


def test_a_dimension_of_nothing(folder: Path) -> None:
    edit(folder, lambda state: state.update({VIDEO + "pos_embed": torch.zeros(1, 0, 96)}))
    refused(folder, "pos_embed", "none of them 0")


def test_lm_head(folder: Path, model: VideoGPT) -> None:
    """Tied: absent or equal. Not tied: present."""
    table = "model.embed_tokens.weight"
    edit(folder, lambda state: state.update({"lm_head.weight": state[table].clone()}))
    assert_same(load_model(folder), model)
    edit(folder, lambda state: state["lm_head.weight"].add_(1))
    refused(folder, "lm_head.weight differs")
    edit_config(folder, tie_word_embeddings=False)
    untied = load_model(folder).language_model
    assert torch.equal(untied.lm_head.weight, untied.embed_tokens.weight + 1)
    edit(folder, lambda state: state.pop("lm_head.weight"))
    refused(folder, "missing (1)", "lm_head.weight")


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_act": "gelu"},
        {"rope_scaling": {"type": "yarn"}},
        {"use_sliding_window": True},
        {"hidden_size": None},
        {"hidden_size": "192"},
        {"num_key_value_heads": 4},
        {"mm_projector_type": "mlp2x_gelu"},
        {"mm_vision_select_layer": -1},
        {"vocab_size": 601},
        {"num_hidden_layers": 5},
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 10**9},
        {"hidden_size": 10**30},
        {"vocab_size": 2**62},
        {"mvgpt": 5},
        {"mvgpt": {"image_pool": 10**12}},
        {"mvgpt": {"select_k": 3}},
        {"mvgpt": {"frames": 8}},
        {"mvgpt": {"select_k": "4"}},
    ],
    ids=str,
)
def test_configs_that_do_not_fit(folder: Path, values: dict[str, object]) -> None:
    edit_config(folder, **values)
    refused(folder)


def test_encoders_from_elsewhere(folder: Path, model: VideoGPT, tmp_path: Path) -> None:
    """A CLIP folder with its text half, and a VideoMamba .pth with its wrapper, as they are published."""
    state = load_file(folder / "model.safetensors")
    clip = {f"vision_model.{n[len(CLIP) :]}": state.pop(n) for n in list(state) if n.startswith(CLIP)}
    video = {n[len(VIDEO) :]: state.pop(n) for n in list(state) if n.startswith(VIDEO)}
    save_file(state, folder / "model.safetensors")
    (tmp_path / "clip").mkdir()
    save_file(
        clip | {"text_model.x": torch.zeros(1), "logit_scale": torch.zeros(1)}, tmp_path / "clip" / "model.safetensors"
    )
    torch.save({"model": video | {"clip_decoder.0.norm.bias": torch.zeros(1)}}, tmp_path / "videomamba.pth")

    sources = {"clip": tmp_path / "clip", "videomamba": tmp_path / "videomamba.pth"}
    assert_same(load_model(folder, **sources), model)
    refused(folder, "image encoder", "--clip")
    refused(folder, "video encoder", "--videomamba", clip=sources["clip"])
    refused(folder, "not found", clip=sources["clip"], videomamba=tmp_path / "none.pth")


def test_a_second_source_is_not_silently_preferred(folder: Path, tmp_path: Path) -> None:
    refused(folder, "of its own", clip=tmp_path)


def test_no_checkpoint(tmp_path: Path) -> None:
    refused(tmp_path / "none", "config.json")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MvgptError, match="no weights"):
        open_folder(tmp_path)
    for text in ("[", "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        refused(tmp_path, "JSON")


@pytest.mark.parametrize("name", ["random:7b", "no/such/folder", "nothing", ""])
def test_sources_that_are_none(name: str) -> None:
    with pytest.raises(MvgptError, match="expected"):
        open_source(name)


def test_a_hub_id_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MvgptError, match="cannot get owner/model from the hub"):
        open_source("owner/model")
