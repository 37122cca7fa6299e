"""Which videos of an evaluation the head has seen in its training: told by content, whatever their names are.

Figures on videos that were trained on say nothing about new ones. A video counts as seen when its file has the digest
of a training video's, or when its features are that video's to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.data.content_hash import rows_digest
from trainer.data.features import FeatureSet, VideoFeatures
from trainer.mil.checkpoint import Checkpoint


def marks_of(video: VideoFeatures) -> list[str]:
    """What a video is recognised by: the digest of its file, where that is known, and that of its features."""
    return [mark for mark in (video.sha256, rows_digest(video.rows)) if mark]


def training_marks(features: FeatureSet) -> dict[str, list[str]]:
    """Marks of every training video by name, for the checkpoint."""
    return {video.name: marks_of(video) for video in features.videos}


def seen_in_training(features: FeatureSet, checkpoint: Checkpoint) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """Return (V,) True where the head was trained on, or stopped by, that video; None if the checkpoint does not
    know its training videos."""
    if not checkpoint.training_videos:
        return None
    known = {mark for marks in checkpoint.training_videos.values() for mark in marks}
    return np.array([not known.isdisjoint(marks_of(video)) for video in features.videos])


def overlap(features: FeatureSet, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return for results.json: `known`, number of `videos` seen in training, their `share` and their `names`."""
    seen = seen_in_training(features, checkpoint)
    if seen is None:
        return {"known": False, "videos": None, "share": None, "names": []}
    names = [video.name for video, one in zip(features.videos, seen, strict=True) if one]
    return {"known": True, "videos": len(names), "share": round(len(names) / len(seen), 4), "names": names}


def warning(seen: Mapping[str, Any], videos: int) -> str:
    """Return one sentence for people, or ""."""
    if not seen["known"]:
        return (
            "it is not known which videos the head was trained on (an older checkpoint); train it again, or make sure "
            "that none of these was among them"
        )
    if not seen["videos"]:
        return ""
    return (
        f"{seen['videos']} of the {videos} videos evaluated were seen in training, so these figures flatter the head; "
        "evaluate on other recordings"
    )
