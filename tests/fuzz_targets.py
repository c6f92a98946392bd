"""What is fuzzed: each function makes a target for `sandbox.Sandbox`, and imports inside, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from sandbox import Target


def bundle(workspace: Path, folder: Path) -> Target:
    """manifest.json → the bundle opened, shown, loaded, and asked about a frame."""
    import numpy as np
    from mvgpt_runtime import Session, contract
    from mvgpt_runtime.cli import _print_manifest
    from mvgpt_runtime.manifest import Bundle

    copy = _linked(folder, workspace)

    def target(manifest: bytes) -> None:
        (copy / contract.MANIFEST_NAME).write_bytes(manifest)
        opened = Bundle.open(copy)
        for name in opened.manifest.files:
            assert (copy / name).resolve().parent in (copy, folder)
        _print_manifest(opened.manifest)
        session = Session(opened)
        session.load_frames([np.zeros((48, 64, 3), np.uint8)])
        assert all(token.id >= 0 for token in session.ask("What?", max_new_tokens=2))

    return target


def tokenizer(workspace: Path, folder: Path) -> Target:
    """tokenizer.json, its hash in the manifest → a prompt's ids, and text from ids; the exporter's checks."""
    from mvgpt_export.tokenizer import special_ids
    from mvgpt_runtime import contract
    from mvgpt_runtime.manifest import Bundle
    from mvgpt_runtime.prompt import Prompt, TextStream

    copy = _linked(folder, workspace)
    path = copy / contract.TOKENIZER_NAME
    path.unlink()
    manifest = json.loads((copy / contract.MANIFEST_NAME).read_text())
    vocab_size = manifest["geometry"]["vocab_size"]

    def target(content: bytes) -> None:
        path.write_bytes(content)
        entry = manifest["files"][contract.TOKENIZER_NAME]
        entry.update(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        (copy / contract.MANIFEST_NAME).write_text(json.dumps(manifest))
        prompt = Prompt(Bundle.open(copy))
        ids = [*prompt.suffix_ids("What happens, and where?"), *prompt.next_turn_ids("Ünïcödé 北京 🎬"), 0, 5, 599]
        stream = TextStream(prompt.tokenizer)
        for token in ids:
            stream.push(token)
        stream.finish()
        special_ids(prompt.tokenizer, vocab_size)

    return target


def question(workspace: Path, folder: Path) -> Target:
    """A question → an answer of one token, or a refusal; and the same text as the end of a conversation."""
    import numpy as np
    from mvgpt_runtime import Session

    session = Session(folder)
    session.load_frames([np.zeros((48, 64, 3), np.uint8)])

    def target(text: str) -> None:
        for keep_history in (False, True):
            answer = session.ask(text, keep_history=keep_history, max_new_tokens=1)
            list(answer)
            assert answer.finish_reason in ("stop", "length")

    return target


def golden_vectors(workspace: Path, folder: Path, vectors: Path) -> Target:
    """(file name, content) in a folder of golden vectors, its hash in their manifest → the check against the bundle."""
    from mvgpt_runtime import contract
    from mvgpt_runtime.goldens import bundle_cases
    from mvgpt_runtime.goldens.check import first_difference
    from mvgpt_runtime.manifest import Bundle

    copy = _linked(vectors, workspace)
    listed = (copy / contract.VECTORS_NAME).read_text()
    cases = list(bundle_cases(Bundle.open(folder)))

    def target(case: tuple[str, bytes]) -> None:
        name, content = case
        path = copy / name
        old = hashlib.sha256(path.read_bytes()).hexdigest()
        path.unlink()
        path.write_bytes(content)
        if name != contract.VECTORS_NAME:
            (copy / contract.VECTORS_NAME).write_text(listed.replace(old, hashlib.sha256(content).hexdigest()))
        try:
            first_difference(cases, copy)
        finally:
            path.unlink()
            (copy / contract.VECTORS_NAME).write_text(listed)
            if not path.exists():
                path.symlink_to(vectors / name)

    return target


def video(workspace: Path) -> Target:
    """A video file → its sampled frames, decoded."""
    from mvgpt_runtime.video import open_clip

    path = workspace / "clip.mp4"

    def target(content: bytes) -> None:
        path.write_bytes(content)
        clip = open_clip(path)
        frames = list(clip.frames())
        assert len(frames) == len(clip.indices) == len(clip.timestamps_s)
        assert all(frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == "uint8" for frame in frames)

    return target


def checkpoint(workspace: Path, folder: Path) -> Target:
    """(file name, content) in a checkpoint folder → the eager model."""
    from mvgpt_export.sources import open_source

    copy = _linked(folder, workspace)

    def target(case: tuple[str, bytes]) -> None:
        name, content = case
        path = copy / name
        path.unlink()
        path.write_bytes(content)
        try:
            open_source(str(copy))
        finally:
            path.unlink()
            path.symlink_to(folder / name)

    return target


def _linked(folder: Path, workspace: Path) -> Path:
    """A folder of symbolic links to the files of another, but for the JSON files, which are copied."""
    copy = Path(tempfile.mkdtemp(dir=workspace)).resolve()
    for file in folder.iterdir():
        if file.suffix == ".json":
            shutil.copy(file, copy)
        else:
            (copy / file.name).symlink_to(file)
    return copy
