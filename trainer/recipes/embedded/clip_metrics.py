"""Figures of a clip model: clip AUC with intervals, a regression on the teacher's features for comparison, and alarms
on whole scenes.

The score of a clip is the highest raw score of its windows (16 frames, every 16 frames), as in `stream-detector score`.
Intervals are 95 % percentiles of a bootstrap over clips, drawn within each label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.alarms.replay import hysteresis_starts, smooth_scores
from stream_detector.config import AlarmConfig, SmoothingConfig
from stream_detector.models.heads import Head
from stream_detector.types import WINDOW_FRAMES, Float32Array
from trainer.data.clips import Clip
from trainer.ranking import auc
from trainer.recipes.embedded.fit_head import Bag, HeadConfig, clip_scores, fit_head
from trainer.recipes.embedded.teacher import Targets

Floats = NDArray[np.float64]


def auc_interval(positive: Floats, negative: Floats, *, rounds: int = 1000, seed: int = 0) -> dict[str, Any]:
    """{"value", "low", "high", "abnormal", "normal"}: AUC, its 95 % interval and the number of clips."""
    rng = np.random.default_rng(seed)
    drawn = [auc(rng.choice(positive, len(positive)), rng.choice(negative, len(negative))) for _ in range(rounds)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {
        "value": round(auc(positive, negative), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "abnormal": len(positive),
        "normal": len(negative),
    }


def clip_aucs(scores: Float32Array, sets: Sequence[str], abnormal: Sequence[bool]) -> dict[str, Any]:
    """AUC of every set that has both labels, and pooled over all clips."""
    values, names, labels = scores.astype(np.float64), np.array(sets), np.array(abnormal, dtype=bool)
    result: dict[str, Any] = {}
    for name in [*sorted(set(sets)), "pooled"]:
        chosen = np.ones(len(values), dtype=bool) if name == "pooled" else names == name
        positive, negative = values[chosen & labels], values[chosen & ~labels]
        if len(positive) and len(negative):
            result[name] = auc_interval(positive, negative)
    return result


def teacher_probe(clips: Sequence[Clip], targets: Targets, shares: Mapping[str, float]) -> dict[str, Any]:
    """The same table for a logistic regression on the teacher's features, on the clips that the teacher has scored."""
    rows: dict[int, list[int]] = {}
    for row in np.flatnonzero(targets.done).tolist():
        rows.setdefault(targets.jobs[row].item, []).append(row)
    bags: dict[str, list[Bag]] = {"train": [], "val": []}
    for item, found in sorted(rows.items()):
        clip = clips[item]
        bags[clip.split].append(Bag(np.array(targets.features[found]), clip.set, clip.abnormal))
    val_labels = {bag.abnormal for bag in bags["val"]}
    if len(val_labels) < 2 or len({bag.abnormal for bag in bags["train"]}) < 2:
        return {}
    head = fit_head(bags["train"], HeadConfig(decay=0.01, dropout=0.0), shares)
    scores = clip_scores(head, bags["val"])
    return clip_aucs(scores, [b.set for b in bags["val"]], [b.abnormal for b in bags["val"]])


def leave_one_set_out(
    bags: Sequence[Bag], fit: Callable[[Sequence[Bag]], Head], *others: Sequence[Bag]
) -> tuple[dict[str, Any], ...]:
    """For every set with both labels: the AUC on it of a head that `fit` made from all other sets.

    Only the head is fitted without the set. If the features were trained with the set's labels, the figure is too high.
    others: scored by the same heads, a table each, such as clips that the features were not trained on either.
    """
    labels: dict[str, set[bool]] = {}
    for bag in bags:
        labels.setdefault(bag.set, set()).add(bag.abnormal)
    tables: tuple[dict[str, Any], ...] = tuple({} for _ in (bags, *others))
    for name in sorted(name for name, both in labels.items() if len(both) == 2):
        known = [b for b in bags if b.set != name]
        if len({bag.abnormal for bag in known}) < 2:
            continue
        head = fit(known)
        for table, judged in zip(tables, (bags, *others), strict=True):
            unknown = [b for b in judged if b.set == name]
            if len({bag.abnormal for bag in unknown}) == 2:
                found = clip_aucs(clip_scores(head, unknown), [name] * len(unknown), [b.abnormal for b in unknown])
                table[name] = found[name]
    return tables


@dataclass(frozen=True, slots=True)
class Stream:
    """Scores along one piece of footage. raw: (n,), one per window.  fps: frames per second.

    incident_s: (start, end) of the incident, in seconds; None where nothing happens.
    """

    name: str
    raw: Float32Array
    fps: float
    incident_s: tuple[float, float] | None = None
    stride: int = WINDOW_FRAMES

    @property
    def ends_s(self) -> Floats:
        """(n,) media time of each window's last frame."""
        return (np.arange(len(self.raw)) * self.stride + WINDOW_FRAMES - 1) / self.fps

    @property
    def starts_s(self) -> Floats:
        """(n,) media time of each window's first frame."""
        return np.arange(len(self.raw)) * self.stride / self.fps

    def smoothed(self, time_constant_s: float) -> Floats:
        """Return (n,) scores, smoothed as in the detector."""
        return smooth_scores(self.raw, self.starts_s, self.ends_s, SmoothingConfig(time_constant_s=time_constant_s))

    def alarm_starts(self, smoothed: Floats, threshold: float) -> list[float]:
        """Return when alarms start, by the rule of a run: the ends of the windows that raise them, seconds."""
        starts = hysteresis_starts(
            self.raw.astype(np.float64), smoothed, self.starts_s, self.ends_s, threshold, AlarmConfig()
        )
        return [float(self.ends_s[number]) for number in starts]


def judge_scenes(
    streams: Sequence[Stream], threshold: float, time_constant_s: float, within_s: float = 3.0
) -> dict[str, Any]:
    """Of scenes with an incident, count those with exactly one alarm and those with an alarm in time; of scenes without
    one, those with no alarm.
    """
    seen = quiet = false = missed = extra = single = 0
    delays: list[float] = []
    for stream in streams:
        starts = stream.alarm_starts(stream.smoothed(time_constant_s), threshold)
        if stream.incident_s is None:
            quiet += 1
            false += bool(starts)
            continue
        seen += 1
        begin = stream.incident_s[0]
        timely = [s for s in starts if begin <= s <= begin + within_s]
        missed += not timely
        extra += len(starts) > len(timely[:1])
        single += len(starts) == 1
        delays += [s - begin for s in timely[:1]]
    return {
        "incident_scenes": seen,
        "seen_within_s": within_s,
        "seen": seen - missed,
        "scenes_with_other_alarms": extra,
        "scenes_with_one_alarm": single,
        "quiet_scenes": quiet,
        "quiet_scenes_with_alarm": false,
        "median_delay_s": round(float(np.median(delays)), 2) if delays else None,
    }
