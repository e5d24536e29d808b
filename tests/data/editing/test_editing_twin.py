"""What is planted in a twin is found in it: rates, the lag, spans that are dropped, what tracks hang on."""

from __future__ import annotations

import numpy as np
import pytest
from editing_material import SMALL, settings
from sklearn.linear_model import Ridge

from fusion_lab.contracts import ConfigError
from fusion_lab.data.editing import load
from fusion_lab.data.editing.twin import Twin


def made(**twin):
    config = settings(twin={"videos": 6, "seconds": 40, "dropped": 0, "absent": 0, **twin})
    return config, Twin(config, config.twin)


def test_streams_tick_at_their_own_rates():
    config, twin = made(rates={"audio": 25.0, "visual": 12.5})
    for name, rate in config.twin.rates.items():
        times = twin.streams[name].get("video 0").stream.times
        assert np.allclose(np.diff(times), 1 / rate) and len(times) == int(40 * rate)


@pytest.mark.parametrize("dropped", [0.1, 0.4])
def test_a_share_of_the_samples_is_dropped_in_spans(dropped):
    _, twin = made(dropped=dropped, span=2.0, videos=12)
    stream = twin.streams["audio"]
    kept = [stream.get(video).stream.times for video in twin.videos]
    share = 1 - np.mean([len(times) / (40 * 25) for times in kept])
    assert 0.6 * dropped < share <= dropped + 0.01  # spans may overlap, or go beyond the end
    longest = [np.diff(times).max() for times in kept]
    assert min(longest) > 1.0


def test_videos_without_a_stream_are_as_many_as_said_and_not_the_same_of_each():
    _, twin = made(absent=0.3)
    lost = [set(twin.videos) - set(stream.videos()) for stream in twin.streams.values()]
    assert [len(videos) for videos in lost] == [2, 2] and not lost[0] & lost[1]


@pytest.mark.parametrize("lag", [0.0, 0.5])
def test_tracks_follow_the_sound_after_the_lag_and_the_picture_at_once(lag):
    """The push on a track, against each stream at each shift: they go together most where they were planted."""
    config, twin = made(lag=lag, signal=2.0)
    cells = {video: twin.tracks.cells(video).reshape(-1, 3, 9) for video in twin.videos}
    shifts = np.arange(-2, 12)  # steps by which the stream comes before the push
    for name, planted in (("audio", lag), ("visual", 0.0)):
        found = np.zeros(len(shifts))
        for video in twin.videos:
            stream = twin.streams[name].get(video).stream
            clock = twin.tracks.of(video)
            both = (cells[video][1:, :, 0] > 0) & (cells[video][:-1, :, 0] > 0)
            for track in range(3):
                walk = (cells[video][:, track, 3] - 960) / 300
                push = np.where(both[:, track], walk[1:] - 0.8 * walk[:-1], 0.0)
                for i, shift in enumerate(shifts):
                    shown = np.interp(clock[:-1] - shift / 10, stream.times, stream.values[:, 0])
                    found[i] += abs(np.corrcoef(push[12:], shown[12:])[0, 1])
        assert abs(shifts[found.argmax()] / 10 - planted) <= 0.1, (name, found)


def errors(dataset, streams):
    """Out-of-video error of a linear guess at the next place of each active track, from the named streams and the past:
    that of the track itself, and of the streams at the last six steps.
    """
    rows = {name: dataset.steps[name].values[:-1].numpy() for name in streams}
    track = dataset.steps["track"].values[:-1].numpy().reshape(-1, 3, 9)
    video = np.searchsorted(np.unique(dataset.group), dataset.group)[
        np.searchsorted(dataset.windows.start, np.arange(len(dataset.times)), side="right") - 1
    ]
    steps = np.flatnonzero((np.arange(len(track)) >= 6) & (np.roll(video, 6) == video) & (np.roll(video, -1) == video))
    lost = []
    for unit in range(3):
        own = steps[track[steps + 1, unit, 0] > 0]
        past = [track[own, unit][:, [0, 3]], *(x[own - lag] for x in rows.values() for lag in range(6))]
        columns, target = np.concatenate(past, axis=1), track[own + 1, unit, 3]
        test = video[own] < 2
        scale = columns[~test].std(0) + 1e-9
        model = Ridge(10.0).fit(columns[~test] / scale, target[~test])
        lost.append(np.mean((model.predict(columns[test] / scale) - target[test]) ** 2))
    return np.mean(lost)


def test_each_stream_tells_what_the_tracks_and_the_other_do_not():
    twin = {"videos": 8, "seconds": 60, "absent": 0, "dropped": 0, "signal": 2.0}
    dataset = load(settings(twin=twin))
    alone, sound, picture, both = (errors(dataset, s) for s in ([], ["audio"], ["visual"], ["audio", "visual"]))
    assert both < 0.9 * min(sound, picture) and max(sound, picture) < 0.95 * alone


def test_without_signal_the_streams_tell_nothing():
    dataset = load(settings(twin={"videos": 8, "seconds": 60, "absent": 0, "dropped": 0, "signal": 0.0}))
    assert errors(dataset, ["audio", "visual"]) > 0.97 * errors(dataset, [])


def test_the_same_settings_give_the_same_bits_and_another_seed_gives_others():
    one, again, other = (load(settings(twin={"seed": seed, "videos": 2, "seconds": 3})) for seed in (1, 1, 2))
    assert one.provenance == again.provenance and one.provenance.digest != other.provenance.digest
    assert one.steps["track"].values.equal(again.steps["track"].values)
    assert not one.steps["track"].values.equal(other.steps["track"].values)


def test_a_folder_goes_before_the_twin(tmp_path):
    config = settings(root=str(tmp_path))
    assert config.made is None and settings().made is not None
    with pytest.raises(ConfigError, match="expected tracks and no table of targets"):
        settings(tracks=None, targets={"file": "t.csv", "tasks": {"night": {}}}, streams=SMALL)
