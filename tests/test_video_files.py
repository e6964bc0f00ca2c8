"""Video in files: what is written is read back, by time, upright; what cannot be used is named."""

import json
import re

import av
import numpy as np
import pytest
from conftest import refused, run_ditzoo
from PIL import Image

from ditzoo.assemble import build
from ditzoo.clips import contact_sheet, save_frames, save_gif, save_mp4
from ditzoo.errors import DataError, DataWarning, SamplingError
from ditzoo.room import bytes_a_picture
from ditzoo.sources import resolve

TINY = """
name = "tiny"
backbone = {kind = "video-dit", width = 48, depth = 2, heads = 2, patch = [1, 4, 4], in_channels = 1, input_size = [3, 8, 8]}
conditioning = "adaln-zero"
prompt = {kind = "label", classes = 2, names = ["ash", "birch"]}
schedule = {kind = "flow", prediction = "velocity"}
sampler = "euler"
codec = {kind = "pixels", channels = 1}
sampling = {steps = 2, samples = 2, fps = 12.5}
"""


def greys(count, size=(32, 48), first=20, step=10):
    return [Image.new("RGB", size[::-1], (first + step * index,) * 3) for index in range(count)]


def folder(zoo, path, **fields):
    data = {"kind": "video-folder", "folder": str(path), "frames": 6, "height": 16, "width": 16, **fields}
    return zoo.part("dataset", data).build()


def shown(item):
    return ((item["pixels"].mean((0, 2, 3)) + 1) * 127.5).round().int().tolist()


@pytest.fixture
def videos(tmp_path):
    for name in ("ash", "birch"):
        (tmp_path / name).mkdir()
    save_mp4(greys(12), tmp_path / "ash" / "a.mp4", 10)
    save_gif(greys(8), tmp_path / "birch" / "b.gif", 10)
    return tmp_path


def encode(path, times, *, rate=10, rotation=0):
    """Frames of rising grey at given times, in hundredths of a second."""
    from fractions import Fraction

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.options = 48, 32, "yuv420p", {"crf": "4"}
        stream.codec_context.time_base = Fraction(1, 100)
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 20 + 10 * index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_frames_come_back_in_order_by_class_and_by_caption(zoo, videos):
    data = folder(zoo, videos)
    assert data.names == ("ash", "birch")
    assert [data[i]["item"] for i in range(len(data))] == [0, 1]
    for index in range(2):
        assert data[index]["pixels"].shape == (3, 6, 16, 16)
        assert np.allclose(shown(data[index]), [20, 30, 40, 50, 60, 70], atol=3)
    assert folder(zoo, videos, channels=1)[0]["pixels"].shape == (1, 6, 16, 16)
    every = folder(zoo, videos, clips="all", frames=4)
    assert len(every) == 3 + 2
    assert np.allclose(shown(every[1]), [60, 70, 80, 90], atol=3)
    (videos / "ash" / "a.txt").write_text("a cat that falls\n")
    assert folder(zoo, videos, items="captions")[0]["item"] == "a cat that falls"
    with pytest.raises(DataError, match=r"b.gif: its caption b.txt cannot be read .*data.items=classes"):
        folder(zoo, videos, items="captions")[1]


def test_a_rate_is_met_by_time_also_where_the_file_has_none(zoo, videos, tmp_path_factory):
    assert np.allclose(shown(folder(zoo, videos, fps=5)[0]), [20, 40, 60, 80, 100, 120], atol=3)
    assert np.allclose(shown(folder(zoo, videos, fps=20)[0]), [20, 20, 30, 30, 40, 40], atol=3)
    uneven = tmp_path_factory.mktemp("uneven")
    encode(uneven / "v.mp4", [0, 10, 50, 60, 70, 80])
    assert np.allclose(shown(folder(zoo, uneven, fps=10)[0]), [20, 30, 30, 30, 30, 40], atol=3)


def test_what_gives_no_clip_is_named_listed_or_stood_in_for(zoo, videos):
    (videos / "ash" / "text.mp4").write_text("hello")
    (videos / "ash" / "z.mp4").write_bytes((videos / "ash" / "a.mp4").read_bytes()[:900])
    save_gif(greys(3), videos / "birch" / "short.gif", 10)
    with av.open(str(videos / "birch" / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    wrong = {
        "text.mp4": "cannot be read as video",
        "z.mp4": "cannot be read as video",
        "short.gif": "shows 3 frames at 10 a second, and 6 are needed",
        "sound.mp4": "sound alone and no pictures",
    }
    data = folder(zoo, videos)
    places = {path.name: index for index, (path, _) in enumerate(data.files)}
    for name, told in wrong.items():
        with pytest.raises(DataError, match=rf"cannot use video .*{name}: it .*{told}.*data.on_error=skip"):
            data[places[name]]
    with pytest.warns(DataWarning, match=r"stands in for .*(text|z).mp4"):
        assert folder(zoo, videos, on_error="skip")[places["text.mp4"]]["item"] == 1
    surveyed = {path.rsplit("/", 1)[-1]: told for path, _, told in data.survey() if told}
    assert surveyed.keys() == wrong.keys()
    (videos / "none").mkdir()
    with pytest.raises(DataError, match="no videos in"):
        folder(zoo, videos / "none")


def test_a_turned_video_is_read_upright(zoo, tmp_path, monkeypatch):
    encode(tmp_path / "v.mp4", range(0, 60, 10))
    with av.open(str(tmp_path / "v.mp4")) as container:
        frame = next(container.decode(video=0))
    wide = np.zeros((32, 48, 3), np.uint8)
    wide[:, :24] = 255  # bright on the left; turned by 90 degrees anticlockwise that is below
    from ditzoo_video import reading

    class Turned:
        rotation = 90
        to_image = staticmethod(lambda: Image.fromarray(wide))

    assert frame.rotation == 0
    upright = reading._fitted(Turned(), (48, 32), grey=True)
    assert upright[:20].mean() < 10
    assert upright[28:].mean() > 245


def test_gifs_mp4s_frames_and_sheets_show_every_frame(tmp_path):
    clip = greys(5, size=(31, 47))
    save_gif(clip, tmp_path / "c.gif", 12.5)
    with Image.open(tmp_path / "c.gif") as gif:
        assert (gif.n_frames, gif.info["duration"], gif.info["loop"]) == (5, 80, 0)
        assert gif.size == (141, 93)
    save_mp4(clip, tmp_path / "c.mp4", 12.5)
    with av.open(str(tmp_path / "c.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.frames, float(stream.average_rate), stream.width, stream.height) == (5, 12.5, 140, 92)
    save_frames(clip, tmp_path / "c", 12.5)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [f"{i:05d}.png" for i in range(5)]
    sheet = np.asarray(contact_sheet([clip, clip[:3]], ["five", "three"]))
    levels = {level for level in range(20, 70, 10) if (sheet == level).all(-1).sum() >= 31 * 47}
    assert levels == set(range(20, 70, 10))
    assert not list(tmp_path.glob("*.tmp"))


def test_a_video_model_is_sampled_to_clips_of_any_size(zoo, tmp_path, capsys, monkeypatch):
    spec = tmp_path / "tiny.toml"
    spec.write_text(TINY)
    words = ["sample", spec, "--random-weights", "--height", 12, "--width", 16, "--num-frames", 5]
    assert run_ditzoo(*words, "-o", tmp_path / "a").returncode == 0
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"00000.gif", "00001.gif", "grid.gif", "grid.png", "samples.json"}
    with Image.open(tmp_path / "a" / "00001.gif") as gif:
        assert (gif.n_frames, gif.info["duration"], gif.size) == (5, 80, (112, 84))
    command = json.loads((tmp_path / "a" / "samples.json").read_text())["command"]
    assert "--num-frames 5" in command
    assert run_ditzoo(*words, "--format", "png", "--fps", 4, "-o", tmp_path / "b").returncode == 0
    assert len(list((tmp_path / "b" / "00001").iterdir())) == 5
    for wrong, told in [(["--fps", 0], "sampling.fps"), (["--num-frames", 0], "sampling.num_frames")]:
        assert told in refused(capsys, monkeypatch, "sample", spec, "--random-weights", *wrong)
    assert "is of clips" in refused(capsys, monkeypatch, "sample", "fashion-dit", "--format", "mp4")
    told = refused(capsys, monkeypatch, "sample", "fashion-dit", "--out", tmp_path / "clip.gif")
    assert told.endswith(f"clip.gif' is named like a file; say --out {tmp_path / 'clip'}")
    assert not (tmp_path / "clip.gif").exists()
    drawn = build(resolve(str(spec), zoo).spec).sample(class_labels=["ash"], output_type="np")
    assert drawn.frames.shape == (1, 3, 8, 8, 1)


def test_a_size_beyond_memory_is_refused_before_it_is_tried(zoo, monkeypatch, capsys, tmp_path):
    spec = tmp_path / "tiny.toml"
    spec.write_text(TINY)
    told = refused(capsys, monkeypatch, "sample", spec, "--random-weights", "--num-frames", 64, "--height", 8192, "--width", 8192)
    assert re.search(r"'tiny' at 64x8192x8192 takes about [\d.]+ GB for 2 at once, and [\d.]+ GB are free; draw smaller", told)
    model = build(resolve(str(spec), zoo).spec)
    asked = {"num_images": 2, "output_type": "latent"}
    monkeypatch.setattr("ditzoo.room.available_bytes", lambda: int(1.5 * bytes_a_picture(model.spec)))
    assert len(model.sample(**asked).images) == 2  # the size of training
    with pytest.raises(SamplingError, match=r"for 2 at once, and .* free; set batch_size=1, or go on in spite of it: --force"):
        model.sample(**asked, num_frames=3)
    assert len(model.sample(**asked, num_frames=3, batch_size=1).images) == 2
    assert len(model.sample(**asked, num_frames=3, force=True).images) == 2
