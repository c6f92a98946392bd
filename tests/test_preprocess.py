"""Both resizes against the programs they must equal, bit for bit, and what is refused."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mvgpt_runtime.contract import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from mvgpt_runtime.errors import MvgptError
from mvgpt_runtime.preprocess import normalize, resize_clip, resize_video
from PIL import Image

Frame = npt.NDArray[np.uint8]

# (height, width): phones, cameras, screens, upscaling, odd differences on both axes, one pixel.
SIZES = [
    (1080, 1920),
    (1920, 1080),
    (720, 1280),
    (480, 640),
    (2340, 1080),
    (272, 640),
    (240, 320),
    (224, 224),
    (225, 224),
    (224, 227),
    (448, 448),
    (337, 211),
    (100, 61),
    (3, 5),
    (40, 1),
    (1, 40),
    (1, 1),
]


def _noise(height: int, width: int, seed: int = 0) -> Frame:
    """Noise overshoots most, so that it tests the rounding and the clamping between the passes."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _smooth(height: int, width: int) -> Frame:
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x / 17 + y / 31), 127 + 120 * np.cos(x / 23 - y / 9), (3 * x + y) % 256]
    return np.stack(waves, axis=-1).astype(np.uint8)


def _pillow(frame: Frame, size: int) -> Frame:
    """Rows first, as two calls: on its own, Pillow 13 takes columns first for some tall pictures."""
    height, width = frame.shape[:2]
    short = min(height, width)
    new_height, new_width = int(size * height / short), int(size * width / short)
    picture = Image.fromarray(frame).resize((new_width, height), Image.Resampling.BICUBIC)
    picture = picture.resize((new_width, new_height), Image.Resampling.BICUBIC)
    top, left = (new_height - size) // 2, (new_width - size) // 2
    return np.asarray(picture)[top : top + size, left : left + size]


def _opencv(frame: Frame, size: int) -> Frame:
    return np.asarray(cv2.resize(frame, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def _assert_equal(ours: Frame, theirs: Frame) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    difference = np.abs(ours.astype(int) - theirs)
    assert not difference.any(), f"{(difference > 0).mean():.2%} of the values differ, by up to {difference.max()}"


@pytest.mark.parametrize("draw", [_noise, _smooth])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resizes_equal_pillow_and_opencv(height: int, width: int, draw: Callable[[int, int], Frame]) -> None:
    frame = draw(height, width)
    _assert_equal(resize_clip(frame, 224), _pillow(frame, 224))
    _assert_equal(resize_video(frame, 224), _opencv(frame, 224))


@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 64), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_any_size(height: int, width: int, size: int, seed: int) -> None:
    frame = _noise(height, width, seed)
    _assert_equal(resize_clip(frame, size), _pillow(frame, size))
    _assert_equal(resize_video(frame, size), _opencv(frame, size))


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (1920, 1080), (480, 640), (240, 320), (180, 101), (9, 7)])
def test_image_stream_equals_the_clip_image_processor(height: int, width: int) -> None:
    # The class built on Pillow; the one built on torchvision resizes differently.
    processor = importlib.import_module("transformers.models.clip.image_processing_pil_clip").CLIPImageProcessorPil()
    assert processor.size["shortest_edge"] == processor.crop_size["height"] == 224
    frame = _smooth(height, width)
    theirs = processor(frame, return_tensors="np", input_data_format="channels_last")["pixel_values"]
    raw = processor(frame, return_tensors="np", do_rescale=False, do_normalize=False, input_data_format="channels_last")
    ours = resize_clip(frame, 224)
    _assert_equal(ours, raw["pixel_values"][0].transpose(1, 2, 0).astype(np.uint8))
    normalized = normalize(ours[None], np.ones(1, np.float32), CLIP_MEAN, CLIP_STD)
    np.testing.assert_allclose(normalized, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("resize", [resize_clip, resize_video])
def test_strides_do_not_matter(resize: Callable[[Frame, int], Frame]) -> None:
    frame = _noise(90, 120)
    views = [frame[::-1], frame[:, ::-2], frame.transpose(1, 0, 2), frame[5:77, 11:91], frame[:, :, ::-1]]
    for view in views:
        _assert_equal(resize(view, 32), resize(np.ascontiguousarray(view), 32))
    read_only = frame.copy()
    read_only.flags.writeable = False
    _assert_equal(resize(read_only, 32), resize(frame, 32))
    assert (frame == _noise(90, 120)).all(), "the input was changed"


@pytest.mark.parametrize("resize", [resize_clip, resize_video])
def test_flat_pictures_stay_flat(resize: Callable[[Frame, int], Frame]) -> None:
    for value in (0, 1, 127, 254, 255):
        assert (resize(np.full((231, 517, 3), value, np.uint8), 224) == value).all()


def test_the_crop_is_in_the_middle() -> None:
    frame = np.zeros((64, 256, 3), np.uint8)
    frame[:, 96:160] = 200
    assert (resize_clip(frame, 32)[:, 4:-4] == 200).all()
    assert (resize_clip(frame.transpose(1, 0, 2), 32)[4:-4] == 200).all()
    assert (resize_video(frame, 32)[:, :10] == 0).all(), "the video stream is squashed, not cropped"


def test_normalize() -> None:
    pixels = _noise(3 * 8, 8).reshape(3, 8, 8, 3)
    mask = np.array([1, 1, 0], np.float32)
    out = normalize(pixels, mask, IMAGENET_MEAN, IMAGENET_STD)
    assert out.dtype == np.float32
    assert out.shape == (3, 3, 8, 8)
    assert out.flags.c_contiguous
    assert not out[2].any(), "padding must be zero after normalisation"
    value = (pixels[1, 2, 3, 0] / 255 - IMAGENET_MEAN[0]) / IMAGENET_STD[0]
    assert out[1, 0, 2, 3] == pytest.approx(value, abs=1e-6)
    blue = (pixels[0, 7, 0, 2] / 255 - IMAGENET_MEAN[2]) / IMAGENET_STD[2]
    assert out[0, 2, 7, 0] == pytest.approx(blue, abs=1e-6)


@pytest.mark.parametrize("resize", [resize_clip, resize_video])
@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.int8),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        [[[0, 0, 0]]],
        None,
    ],
    ids=str,
)
def test_what_is_not_a_frame(resize: Callable[[object, int], Frame], frame: object) -> None:
    with pytest.raises(MvgptError, match="not a frame") as caught:
        resize(frame, 8)
    assert caught.value.stage == "preprocess"
    with pytest.raises(MvgptError, match="must be positive"):
        resize(np.zeros((4, 4, 3), np.uint8), 0)


@pytest.mark.parametrize(
    ("pixels", "mask", "std"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), np.ones(2, np.float32), CLIP_STD),
        (np.zeros((2, 8, 7, 3), np.uint8), np.ones(2, np.float32), CLIP_STD),
        (np.zeros((2, 3, 8, 8), np.uint8), np.ones(2, np.float32), CLIP_STD),
        (np.zeros((2, 8, 8, 3), np.uint8), np.ones(3, np.float32), CLIP_STD),
        (np.zeros((2, 8, 8, 3), np.uint8), np.ones(2, np.float64), CLIP_STD),
        (np.zeros((2, 8, 8, 3), np.uint8), np.ones(2, np.float32), (1.0, 1.0)),
        (np.zeros((2, 8, 8, 3), np.uint8), np.ones(2, np.float32), (1.0, 0.0, 1.0)),
    ],
)
def test_what_cannot_be_normalized(
    pixels: Frame, mask: npt.NDArray[np.float32], std: tuple[float, float, float]
) -> None:
    with pytest.raises(MvgptError) as caught:
        normalize(pixels, mask, CLIP_MEAN, std)
    assert caught.value.stage == "preprocess"


def test_sixteen_frames_of_1080p_in_time() -> None:
    frames = [_noise(1080, 1920, seed) for seed in range(4)] * 4
    best = min(_seconds(frames) for _ in range(4))
    assert best <= 1.5, f"both resizes of sixteen frames took {best:.2f} s at best"


def _seconds(frames: list[Frame]) -> float:
    begin = time.perf_counter()
    for frame in frames:
        resize_clip(frame, 224)
        resize_video(frame, 224)
    return time.perf_counter() - begin
