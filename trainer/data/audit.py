"""Checks features for the traces of a broken extraction.

    provenance   one dimension of a video's mean, L2-normalised row separates a class folder from Normal almost
                 perfectly (AUC beyond 0.99 either way). No real feature does that: it is the signature of another
                 extraction run, network or codec. A head trained on such features learns the folder.
    untrained    rows that are never zero, nearly equal from video to video, with large norms: a randomly initialised
                 network in training mode. Real features of a ReLU network are sparse or differ from scene to scene.
    blank, constant, duplicated, not finite   rows without information, and videos with the rows of another video

A finding of provenance, untrained, blank or not finite condemns the set: exit code 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.features import NORMAL, FeatureSet, load_features

PROVENANCE_AUC = 0.99
MIN_VIDEOS = 5  # videos of a class; with fewer, some of thousands of dimensions separates by chance
CHANCE = 1e-3  # a separation with a lower probability is not by chance
SAME_MEANS = 0.97  # mean cosine between videos' mean rows; above it no scene differs from another
EXAMPLES = 5

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """One finding. kind: see the module.  severe: whether it condemns the set.  where: the first few names."""

    kind: str
    severe: bool
    message: str
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Audit:
    """The result. statistics: of all rows.  separation: class → best AUC of a single dimension against Normal."""

    videos: int
    dim: int
    statistics: dict[str, float]
    separation: dict[str, float]
    findings: tuple[Finding, ...]

    @property
    def condemned(self) -> bool:
        """Whether training or reporting on these features would be a mistake."""
        return any(f.severe for f in self.findings)


def audit(features: FeatureSet) -> Audit:
    """Run all checks; the features are not changed."""
    findings = list(_row_findings(features))
    rows = np.concatenate([v.rows for v in features.videos]).astype(np.float64)
    usable = rows[np.isfinite(rows).all(axis=1)]
    means = _video_means(features)
    statistics = _statistics(usable, means)
    separation = _separation(features, means)
    findings += _provenance(features, separation)
    if statistics["mean_cosine_between_videos"] > SAME_MEANS and statistics["share_of_zeros"] < 1e-3:
        findings.append(
            Finding(
                "untrained",
                True,
                f"rows are never zero and the videos' mean rows have a cosine of "
                f"{statistics['mean_cosine_between_videos']:.3f} (norm {statistics['row_norm']:.1f}): the network "
                "looks untrained, or was run in training mode; load its weights strictly and call eval()",
            )
        )
    return Audit(len(features.videos), features.dim, statistics, separation, tuple(findings))


def _row_findings(features: FeatureSet) -> list[Finding]:
    kinds: dict[str, list[str]] = {"not finite": [], "blank": [], "constant": [], "duplicated": []}
    owner: dict[str, str] = {}
    for v in features.videos:
        finite = np.isfinite(v.rows)
        if not finite.all():
            kinds["not finite"].append(v.name)
            continue
        if (v.rows == 0).all(axis=1).any():
            kinds["blank"].append(v.name)
        elif len(v.rows) > 1 and (v.rows == v.rows[0]).all():
            kinds["constant"].append(v.name)
        digest = hashlib.sha256(np.ascontiguousarray(v.rows).tobytes()).hexdigest()
        if digest in owner:
            kinds["duplicated"].append(f"{v.name} = {owner[digest]}")
        owner.setdefault(digest, v.name)
    what = {
        "not finite": "rows that are not finite",
        "blank": "rows of zeros only",
        "constant": "rows that are all the same",
        "duplicated": "exactly the rows of another video",
    }
    return [
        Finding(kind, kind in {"not finite", "blank"}, f"{len(n)} video(s) have {what[kind]}", tuple(n[:EXAMPLES]))
        for kind, n in kinds.items()
        if n
    ]


def _video_means(features: FeatureSet) -> Matrix:
    """L2-normalised mean row of every video, (V, D); videos without a finite row give zeros."""
    means = np.zeros((len(features.videos), features.dim))
    for i, v in enumerate(features.videos):
        rows = v.rows[np.isfinite(v.rows).all(axis=1)]
        if len(rows):
            means[i] = rows.mean(axis=0)
    return np.asarray(means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12))


def _statistics(rows: Matrix, means: Matrix) -> dict[str, float]:
    centre = means[np.linalg.norm(means, axis=1) > 0]
    count = max(len(centre), 1)
    total = float(np.linalg.norm(centre.sum(axis=0)) ** 2)
    cosine = (total - count) / (count * (count - 1)) if count > 1 else float("nan")
    if not len(rows):
        return {"rows": 0, "mean_cosine_between_videos": cosine, "share_of_zeros": 1.0, "row_norm": 0.0}
    return {
        "rows": len(rows),
        "mean": round(float(rows.mean()), 4),
        "std": round(float(rows.std()), 4),
        "min": round(float(rows.min()), 4),
        "max": round(float(rows.max()), 4),
        "row_norm": round(float(np.linalg.norm(rows, axis=1).mean()), 4),
        "share_of_zeros": round(float((rows == 0).mean()), 4),
        "mean_cosine_between_videos": round(cosine, 4),
    }


def _best_auc(group: Matrix, normal: Matrix) -> float:
    """Return the best AUC over all dimensions, in either direction. group: (G, D).  normal: (N, D)."""
    from scipy.stats import rankdata  # takes a second to load

    ranks = rankdata(np.concatenate([group, normal]), axis=0)
    g, n = len(group), len(normal)
    auc = (ranks[:g].sum(axis=0) - g * (g + 1) / 2) / (g * n)
    return float(np.maximum(auc, 1 - auc).max())


def _separation(features: FeatureSet, means: Matrix) -> dict[str, float]:
    categories = np.array([v.category for v in features.videos])
    normal = means[categories == NORMAL]
    if len(normal) < MIN_VIDEOS:
        return {}
    groups = sorted(set(categories) - {NORMAL})
    return {
        str(c): round(_best_auc(means[categories == c], normal), 4)
        for c in groups
        if (categories == c).sum() >= MIN_VIDEOS
    }


def _provenance(features: FeatureSet, separation: dict[str, float]) -> list[Finding]:
    """Return classes beyond PROVENANCE_AUC, unless so few videos could be separated by chance among D dimensions."""
    counts = {c: sum(v.category == c for v in features.videos) for c in (*separation, NORMAL)}
    guilty = []
    for category, auc in separation.items():
        spread = (counts[category] + counts[NORMAL] + 1) / (12 * counts[category] * counts[NORMAL])
        chance = 2 * features.dim * np.exp(-((auc - 0.5) ** 2) / (2 * spread))  # Gaussian tail, all dimensions
        if auc > PROVENANCE_AUC and chance < CHANCE:
            guilty.append(category)
    if not guilty:
        return []
    message = (
        f"{len(guilty)} of {len(separation)} classes are told from Normal by one single dimension (AUC > "
        f"{PROVENANCE_AUC}): they come from another extraction run or network than Normal; extract all videos again, "
        "in one run, with trained weights"
    )
    return [Finding("provenance", True, message, tuple(f"{c} {separation[c]:.4f}" for c in guilty))]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`trainer audit`."""
    parser = subparsers.add_parser("audit", help="are these features what they claim to be?")
    parser.add_argument("features", type=Path)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Print statistics and findings; exit code 1 when the features are condemned."""
    result = audit(load_features(args.features))
    if args.json:
        content: dict[str, Any] = {**asdict(result), "condemned": result.condemned}
        print(json.dumps(content, indent=1))
        return int(result.condemned)
    print(f"{result.videos} videos, {result.dim} dimensions")
    print("  ".join(f"{k} {v:g}" for k, v in result.statistics.items()))
    for category, auc in result.separation.items():
        print(f"  {category:<16} best single dimension against Normal: AUC {auc:.4f}")
    for finding in result.findings:
        print(f"{'CONDEMNED' if finding.severe else 'note'}: {finding.kind}: {finding.message}")
        for name in finding.where:
            print(f"    {name}")
    print("condemned: do not train or report on these features" if result.condemned else "passed")
    return int(result.condemned)
