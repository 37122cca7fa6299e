"""The pinhole camera of the rendered street, and its planes as homographies.

World: metres; X right, Y up, Z away from the camera; the camera stands at (0, height, 0), looks down by `pitch` and
sideways by `yaw` (radians). Picture: pixels, x right, y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """size: (width, height) pixels.  focal: focal length in picture widths."""

    size: tuple[int, int]
    height_m: float
    pitch: float
    yaw: float
    focal: float

    def matrix(self) -> Floats:
        """The 3×4 projection matrix K·R·[I | −C]."""
        width, height = self.size
        pixels = self.focal * width
        sy, cy, sp, cp = math.sin(self.yaw), math.cos(self.yaw), math.sin(self.pitch), math.cos(self.pitch)
        right = (cy, 0.0, -sy)
        up = (sy * sp, cp, cy * sp)
        forward = (sy * cp, -sp, cy * cp)
        rotation = np.array([right, [-v for v in up], forward])
        intrinsics = np.array([[pixels, 0, width / 2], [0, pixels, height / 2], [0, 0, 1]])
        position = np.array([[0.0], [self.height_m], [0.0]])
        return np.asarray(intrinsics @ np.hstack([rotation, -rotation @ position]))

    def ground(self) -> Floats:
        """Homography (X, Z, 1) → picture, for points on the ground."""
        return self.matrix()[:, [0, 2, 3]]

    def wall(self, z_m: float) -> Floats:
        """Homography (X, Y, 1) → picture, for points on the upright plane Z = z_m."""
        m = self.matrix()
        return np.stack([m[:, 0], m[:, 1], z_m * m[:, 2] + m[:, 3]], axis=1)

    def at_size(self, size: tuple[int, int]) -> Camera:
        """The same camera with another picture size of the same aspect."""
        return Camera(size, self.height_m, self.pitch, self.yaw, self.focal)


def project(matrix: Floats, points: Floats) -> tuple[Floats, Floats]:
    """points: (…, 3) metres. Returns pixels (…, 2) and depth (…,) in metres (at least 0.3)."""
    homogeneous = points @ matrix[:, :3].T + matrix[:, 3]
    depth = np.maximum(homogeneous[..., 2], 0.3)
    return homogeneous[..., :2] / depth[..., None], depth
