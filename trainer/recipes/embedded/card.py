"""The model card of a bundle, written from its manifest alone: no figure in it is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream_detector.models.bundle import Bundle

_LIMITS = """\
- It has been trained on short clips from a handful of sources. On cameras unlike these (other heights,
  fisheye, thermal, crowds) its scores mean less. Some such pictures are told (`novelty`), not all. Measure it on
  footage of your own (`stream-detector score`), and calibrate the threshold on your own quiet hours
  (`stream-detector calibrate`).
- It sees violent and sudden motion. It does not see theft, weapons that are only shown, a person who lies still,
  smoke, or anything that takes longer than the 16 frames of a window to tell from ordinary life.
- Sport, play and dancing look like fighting to it. Normal clips that it takes for abnormal are in the tables.
- Very small people (below about a tenth of the picture's height) are a few pixels at its input size of 112 pixels.
- It judges motion as seen at about 25 frames a second; far slower cameras look faster to it.
- Whether it does equally well for all people has not been measured: its sources say nothing about who is in them. It
  must not be the only ground for acting against anybody."""


# What the card says instead of figures of clips that something was chosen on.
WORTH = (
    "## What it is worth",
    "",
    "Earlier cards gave figures of the val clips. They were wrong as a promise, because architecture, averages of "
    "checkpoints, shares of the sets, L2, hidden units and threshold were all chosen on those clips: val had become a "
    "training set. No figure here is of clips that anything was chosen on. The network cannot be judged in nested "
    "folds, for its backbone saw labels of clips of these collections; so these are figures of clips that lie "
    "elsewhere, and of `wild_clips`, which it never saw.",
    "",
    "<!-- benchmark:heldout -->",
    "<!-- /benchmark -->",
    "",
    "AUC of clips; a clip's score is the highest of its windows; 0.5 is chance. For comparison, frozen networks that "
    "saw no label of these collections, with a head whose every choice was made inside the training folds "
    "(`python -m trainer evaluate --standard`):",
    "",
    "<!-- benchmark:standard -->",
    "<!-- /benchmark -->",
)


def render_card(manifest: Mapping[str, Any]) -> str:
    """Markdown for a manifest (as in bundle.json)."""
    training, results = manifest["training"], manifest["results"]
    threshold = manifest["threshold"]
    adaptation = training.get("adapted", training.get("settled"))  # "settled": bundles made before 2026-11-28
    lines = [
        f"# Model card: {manifest['name']}",
        "",
        "Written by `python -m trainer embed` from `bundle.json`; do not edit.",
        "",
        "## What it is",
        "",
        f"A 3D residual network (`{manifest['backbone']['arch']}`, {manifest['backbone']['feature_dim']} features) "
        f"that looks at {manifest['preprocess']['frames']} frames of {manifest['preprocess']['size'][0]}×"
        f"{manifest['preprocess']['size'][1]} pixels (recipe `{manifest['preprocess']['recipe']}`), with a head of "
        f"widths {manifest['head']['dims']} that gives the probability that something violent or sudden happens. "
        f"Its first layer was taken from its teacher, {_beginning(training)}. Created {manifest['created']}.",
        "",
        "## Data",
        "",
        "| set | licence, as stated by its source |",
        "|---|---|",
        *(f"| {name} | {licence} |" for name, licence in sorted(manifest["licences"].items())),
        "",
        "Clips of the train split: "
        + ", ".join(f"{name} {count}" for name, count in training["train_clips"].items())
        + f". Labels are one a clip. Rendered scenes: seeds of {training['rendered_seeds']}.",
        "",
        "## Method",
        "",
        f"Distillation from {training['teacher']}, seen at {training['teacher_size']} pixels: "
        f"{_shown(training)} of the train split (features{_maps(training)} by smooth L1 and cosine, class "
        f"probabilities by Kullback-Leibler divergence), {_labels(training)}, surveillance-like augmentation. "
        f"{training['steps_done']} steps of {training['batch']} windows at "
        + ", then ".join(f"{size} pixels ({100 * share:.0f} % of the steps)" for size, share in training["sizes"])
        + f"; {_averaged(training)}{training['steps_skipped_not_finite']} steps skipped (gradient not finite); "
        f"{training['training_seconds'] / 60:.0f} minutes of training ({training['machine']}). "
        f"Then a head on frozen features{_long(training)} (hidden {training['head']['hidden']}, L2 "
        f"{training['head']['decay']}{_space(training['head'])}){_weighed(training)}, Platt scaling. Network, "
        "averages, shares of the sets, L2, hidden units, smoothing and threshold were chosen on the clips of val.",
        "",
        *_adapted(adaptation),
        *WORTH,
        "",
        "## Threshold",
        "",
        f"{threshold['value']} on the smoothed score ({manifest['smoothing']['kind']}, "
        f"{manifest['smoothing']['time_constant_s']} s), chosen on val clips, rendered scenes and quiet hours: "
        "calibrate it on quiet hours of your own.",
        "",
        *_novelty(manifest.get("novelty") or manifest.get("familiar")),
        *anchors_lines(manifest.get("anchors")),
        "## Rendered scenes",
        "",
        "Seeds that nothing was chosen on, drawn by the program that drew the scenes learned from:",
        "",
        *_scene_table({name: row for name, row in results["rendered_scenes"].items() if name == "check"}),
        "",
        "## Learning curve",
        "",
        *_curve(results.get("curve", [])),
        "",
        "## What it cannot see",
        "",
        _LIMITS,
        "",
        "## Make it again",
        "",
        *_distill_command(training),
        *_average_command(training),
        "    python -m trainer embed --clips CLIPS --quiet-videos QUIET --out BUNDLE --card CARD.md --check-scenes 20 "
        f"--teacher-size {training['teacher_size']} --scene-s {training.get('scene_s', 16):g}",
        *(
            [
                "    python -m trainer adapt --bundle BUNDLE --clips CLIPS --quiet-videos QUIET --out BUNDLE "
                "--card CARD.md" + _weights(adaptation["config"])
            ]
            if adaptation
            else []
        ),
        *(
            ["    python -m trainer novelty --clips CLIPS --bundle BUNDLE --out BUNDLE --card CARD.md"]
            if manifest.get("novelty") or manifest.get("familiar")
            else []
        ),
        "",
        "`CLIPS` holds `index.csv` with the columns path, set, label (normal or abnormal), category, group, split "
        "(train or val), fps and licence; clips of one group come from one source and share a split.",
    ]
    return "\n".join(lines) + "\n"


def write_card(bundle: Bundle, path: Path) -> None:
    """Render the card of a bundle into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_card(bundle.manifest.model_dump(mode="json", by_alias=True)), encoding="utf-8")


def _weighed(training: Mapping[str, Any]) -> str:
    shares = training.get("head_shares")
    listed = ", ".join(f"{name} {share:g}" for name, share in (shares or {}).items())
    return f", the sets weighing {listed}" if listed else ""


def _beginning(training: Mapping[str, Any]) -> str:
    start = training.get("start_from")
    return f"all others began as those of {start}" if start else "all others began at random"


def _shown(training: Mapping[str, Any]) -> str:
    views = training.get("teacher_views")
    if not views:
        return f"{training.get('teacher_windows', 0)} windows"
    mixed = ", of which many of the later ones are two clips in one picture" if len(views) > 1 else ""
    counts = " and ".join(str(count) for count in views)
    return f"{counts} views (crops of windows at half, one or two times their speed, each shown to the teacher{mixed})"


def _labels(training: Mapping[str, Any]) -> str:
    weight = training.get("label_weight", 1.0)
    weighted = "" if weight == 1.0 else f" (weight {weight:g})"
    if not weight:
        return "no labels in these steps"
    if not training.get("teacher_views"):
        return f"mixed in every step with binary cross entropy on the clips' labels{weighted}"
    return (
        f"mixed in every step with binary cross entropy on labels{weighted}, half the clip's and half what "
        f"a regression on the teacher's features of other clips says"
    )


def _space(head: Mapping[str, Any]) -> str:
    told = {
        "teacher": ", fitted on the teacher's features as the network tells them",
        "classes": ", fitted on the 400 action classes as the network tells them",
        "mean": ", the mean of three: fitted on its own features, on the teacher's and on the 400 action classes as "
        "the network tells them",
    }
    return told.get(head.get("space", "features"), "")


def _distill_command(training: Mapping[str, Any]) -> list[str]:
    lines = [
        "    python -m trainer distill --clips CLIPS --teacher I3D_ARCHIVE --normal-videos QUIET --rendered 30 "
        f"--teacher-size {training['teacher_size']}"
    ]
    if training.get("teacher_views"):
        sizes = ",".join(f"{size}:{share:g}" for size, share in training["sizes"])
        lines[0] += " \\"
        maps = " --maps" if training.get("maps") else ""
        lines.append(
            f"        --views {len(training['teacher_views'])}{maps} --label-weight {training['label_weight']:g} "
            f"--steps {training['steps']} "
            f"--batch {training['batch']} --rate {training['rate']:g} --sizes {sizes}"
            + (' --start-from EARLIER  # EARLIER: see "What it is"' if training.get("start_from") else "")
        )
    return lines


def _average_command(training: Mapping[str, Any]) -> list[str]:
    steps = training.get("averaged_from_steps")
    if not steps:
        return []
    if "student" in str(training.get("start_from", "")):
        return ["    python -m trainer average EARLY runs/distill/student.pt --out runs/distill  # EARLY: see above"]
    return [
        f"    # distill with --steps {steps[0]}, keep its student.pt as EARLY, go on with --steps {steps[1]}, then:",
        "    python -m trainer average EARLY runs/distill/student.pt --out runs/distill",
    ]


def _long(training: Mapping[str, Any]) -> str:
    parts = []
    if training.get("quiet_scenes"):
        parts.append(f"{training['quiet_scenes']} whole rendered scenes without an incident")
    if training.get("quiet_recordings"):
        parts.append(f"{len(training['quiet_recordings'])} whole quiet recordings")
    return f" of the train clips and {' and '.join(parts)}" if parts else ""


def _maps(training: Mapping[str, Any]) -> str:
    return " and the maps of two layers, place by place," if training.get("maps") else ""


def _averaged(training: Mapping[str, Any]) -> str:
    steps = training.get("averaged_from_steps")
    return f"mean of the weights at steps {steps[0]} and {steps[1]}; " if steps else ""


def _weights(config: Mapping[str, float]) -> str:
    return "".join(f" --{name} {config[name]:g}" for name in ("keep", "calm", "loud", "hidden") if name in config)


def _units(config: Mapping[str, float]) -> str:
    if "hidden" not in config:
        return ""
    return f", by {config['hidden']:g} hidden units added to what the head was (L2 {config['decay']:g})"


def _adapted(facts: Mapping[str, Any] | None) -> list[str]:
    if facts is None:
        return []
    config = facts["config"]
    recordings = f" and {len(facts['quiet_recordings'])} whole quiet recordings" if facts["quiet_recordings"] else ""
    loud = (
        f"the first seconds of {facts['loud']} incidents"
        if "loud" in facts  # bundles made until 2026-11-28
        else f"{facts['loud_windows']} windows of incidents"
    )
    return [
        f"The head was then adapted (`python -m trainer adapt`) to whole rendered scenes of {facts['scene_s']:g} s, "
        f"{facts['quiet_scenes']} quiet ones and {facts['incident_scenes']} with an incident (seeds "
        f"{facts['seeds']}){recordings}: {facts['calm']} calm pieces should stay below the logit "
        f"{config['calm_below']:g} (weight {config['calm']:g}), {loud} lie "
        f"above {config['loud_above']:g} (weight {config['loud']:g}), and what it says of the train clips stay (weight "
        f"{config['keep']:g}){_units(config)}: their logits moved by {facts['known_logits_moved_rms']:.3f} rms.",
        "",
    ]


def _novelty(part: Mapping[str, Any] | None) -> list[str]:
    if part is None:
        return []
    return [
        "## Pictures of an unknown kind",
        "",
        f"Windows whose features lie further than {part['limit']:g} times the usual distance from the {part['axes']} "
        "leading principal axes of the training windows, for 2 s on end, carry the cause `novelty`. The limit was "
        "chosen on val windows; what it is worth on other footage has not been measured.",
        "",
    ]


def anchors_lines(part: Mapping[str, Any] | None) -> list[str]:
    """What a card says of the anchor features that a bundle carries."""
    if part is None:
        return []
    return [
        "## Anchor features",
        "",
        f"The bundle carries features of {part['count']} windows of its train clips ({', '.join(part['sets'])}): "
        "`anchors.safetensors`, no pictures. Whatever a site adapts must keep their scores (docs/adaptation.md). "
        "Rebuilt by `python -m trainer anchors --bundle BUNDLE --clips CLIPS --out BUNDLE`.",
        "",
    ]


def _scene_table(scenes: Mapping[str, Any]) -> list[str]:
    rows = [
        "| scenes | with incident | exactly one alarm | one within 3 s | quiet | alarms in quiet | median delay |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in scenes.items():
        delay = "–" if row["median_delay_s"] is None else f"{row['median_delay_s']:.1f} s"
        rows.append(
            f"| {name} | {row['incident_scenes']} | {row.get('scenes_with_one_alarm', '–')} | {row['seen']} | "
            f"{row['quiet_scenes']} | {row['quiet_scenes_with_alarm']} | {delay} |"
        )
    return rows


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _curve(points: list[Mapping[str, float]]) -> list[str]:
    if not points:
        return ["Not recorded."]
    names = [key for key in ("step", "features", "cosine", "logits", "labels", "right") if key in points[0]]
    rows = [
        "Means over 50 steps, on augmented training windows.",
        "",
        "| " + " | ".join(names) + " |",
        "|---" * len(names) + "|",
    ]
    rows += ["| " + " | ".join(_short(point.get(key, 0.0)) for key in names) + " |" for point in points]
    return rows
