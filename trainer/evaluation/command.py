"""The command line of the protocol: `python -m trainer evaluate --standard`, from clips to one record.

    python -m trainer evaluate --standard --clips CLIPS --more MORE --quiet QUIET --network i3d --size 160 --out RECORD
    python -m trainer evaluate --standard --clips CLIPS --more MORE --network i3d mc3 --seen SET --choose --size 160 \
        --out RECORD
    python -m trainer evaluate --standard --clips CLIPS --more MORE --bundle embedded --unseen SET --out RECORD

The record is a file of `benchmarks/results/`: date, commit, machine, versions, settings, results. `--cache` stores the
features under a key of file content, weights and decoded pixels; a decoder that gives other pixels gets new features.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

import trainer
from stream_detector.errors import DataError, UsageError
from stream_detector.models.bundle import Bundle
from stream_detector.models.heads import Head
from stream_detector.types import WINDOW_FRAMES, UInt8Array
from trainer.data.videos import video_files
from trainer.evaluation import pixels
from trainer.evaluation.folds import KEPT
from trainer.evaluation.logistic import Logistic, choices_of
from trainer.evaluation.nested import Labels
from trainer.evaluation.networks import FINE_TUNED, Store, Stores, bundle_network, known_stores, parts_of
from trainer.evaluation.pieces import Piece, limited, read_pieces
from trainer.evaluation.standard import Quiet, evaluate_bundle, evaluate_network, labelled, settings_of

BACKGROUND = (18, 32)
UNFIT = "not judged, for labels of it were seen"


def limits_of(words: Sequence[str]) -> dict[str, int]:
    """['boxing=150'] → {'boxing': 150}. Raises UsageError for anything else."""
    found: dict[str, int] = {}
    for word in words:
        name, _, number = word.partition("=")
        if not name or not number.isdigit() or int(number) < 1:
            raise UsageError(f"--limit {word!r} is no SET=N with N of at least 1; give for instance boxing=150")
        found[name] = int(number)
    return found


def main(args: argparse.Namespace) -> int:
    """Evaluate by the protocol and write the record; returns the exit code."""
    if args.clips is None or (args.network is None and args.bundle is None):
        raise UsageError("--standard needs --clips and either --network or --bundle; give them")
    if args.bundle is not None and not args.unseen:
        raise UsageError("--bundle is judged on sets that it never saw; name them with --unseen")
    tuned = sorted(FINE_TUNED & set(args.network or ()))
    if tuned and args.seen is None:
        raise UsageError(
            f"{', '.join(tuned)} was trained on labels; name their sets with --seen, or give --seen alone for none"
        )
    console, began = Console(stderr=True), circumstances()
    limits = limits_of(args.limit)
    everything = read_pieces(args.clips, args.more, args.ignore)
    samples = samples_of(everything)
    labels = labelled(everything, _backgrounds(args.cache, everything, samples, console))
    kept = kept_digest(everything, labels.folds)
    unfit = set(args.seen or ())
    # the groups and folds are those of all clips, also when only some are judged
    places = [place for place in limited(everything, limits) if everything[place].set not in unfit]
    pieces, labels = [everything[place] for place in places], labels.where(places)
    about: dict[str, Any] = {**began, "settings": settings_of(limits)}
    if args.bundle is not None:
        bundle = Bundle.load(args.bundle)
        _, head, _ = bundle.build()
        if not isinstance(head, Head):
            raise DataError(f"the head of bundle {bundle.name} carries a state; judge it with `stream-detector score`")
        bundle_store = Store(args.cache, bundle_network(bundle), samples)
        unseen = [k for k, piece in enumerate(pieces) if piece.set in args.unseen]
        _show_progress(console, bundle_store.network.name, bundle_store.fill([pieces[k].file for k in unseen]))
        raw = [np.zeros(1) for _ in pieces]
        for k in unseen:
            raw[k] = head(torch.from_numpy(bundle_store.features(pieces[k].file))).double().numpy()
        about["settings"] |= {"bundle": bundle.name, "fingerprint": bundle.fingerprint, "unseen": list(args.unseen)}
        results = evaluate_bundle(pieces, labels, raw, args.unseen)
        seen_as, seen_pixels = bundle_store.network.name, bundle_store.folder.name
    else:
        names = tuple(dict.fromkeys(args.network))
        store = known_stores(names, args.size, args.cache, samples)
        _show_progress(console, store.name, store.fill([piece.file for piece in pieces]))
        features = [store.features(piece.file) for piece in pieces]
        about["settings"] |= {
            "networks": list(names),
            UNFIT: sorted(unfit),
            "quiet_minutes": args.quiet_minutes,
            "head": "logistic regression on clip means",
        }
        console.print("features are there; folds, sources and streams follow")
        learner = Logistic(features, labels.abnormal, labels.sets, parts=parts_of(names))
        if args.choose:
            learner.choices = choices_of(tuple(learner.parts))
        results = evaluate_network(
            pieces, labels, learner, lambda: quiet_hours(args.quiet, args.quiet_minutes, store, console)
        )
        seen_as, seen_pixels = store.name, store.pixels
    about["settings"] |= {
        "look": seen_as,
        "pixels": seen_pixels,
        "kept": kept,
    }
    name = args.name or args.out.stem
    write_record(args.out, {"name": name, **about, "results": results})
    console.print_json(json.dumps({key: results[key] for key in ("outer", "unseen", "kinds") if key in results}))
    console.print(f"wrote {args.out}")
    return 0


def judged_clips(
    clips: Path, more: Path | None, cache: Path, console: Console | None = None, ignored: Collection[str] = ()
) -> tuple[list[Piece], Labels, UInt8Array]:
    """Return all labelled clips, their groups and folds, and their backgrounds (n, rows, columns, 3), stored in
    `cache`.
    """
    pieces = read_pieces(clips, more, ignored)
    quiet = console or Console(stderr=True, quiet=True)
    backgrounds = _backgrounds(cache, pieces, samples_of(pieces), quiet)
    return pieces, labelled(pieces, backgrounds), backgrounds


def kept_paths(
    clips: Path, more: Path | None, cache: Path, console: Console | None = None, ignored: Collection[str] = ()
) -> frozenset[str]:
    """Return the paths, as the indexes name them, of the clips that distillation must never use (fold `KEPT`)."""
    pieces, labels, _ = judged_clips(clips, more, cache, console, ignored)
    return frozenset(p.path for p, fold in zip(pieces, labels.folds.tolist(), strict=True) if fold == KEPT)


def samples_of(pieces: Sequence[Piece]) -> list[Path]:
    """Return the first clip of every set; their decoded pixels identify the decoder."""
    first: dict[str, Path] = {}
    for piece in pieces:
        first.setdefault(piece.set, piece.file)
    return list(first.values())


def _backgrounds(cache: Path, pieces: Sequence[Piece], samples: Sequence[Path], console: Console) -> UInt8Array:
    folder = Path(cache) / f"background-{BACKGROUND[0]}x{BACKGROUND[1]}" / pixels.probe(samples, 160)
    folder.mkdir(parents=True, exist_ok=True)

    def each() -> Iterator[tuple[int, int]]:
        for number, piece in enumerate(pieces, start=1):
            kept = folder / f"{pixels.file_digest(piece.file)}.npy"
            if not kept.exists():
                partial = kept.with_suffix(f".{os.getpid()}.partial")
                with partial.open("wb") as out:
                    np.save(out, pixels.background(piece.file, *BACKGROUND))
                os.replace(partial, kept)
            found.append(np.load(kept))
            yield number, len(pieces)

    found: list[UInt8Array] = []
    _show_progress(console, "backgrounds", each())
    return np.stack(found)


def quiet_hours(folder: Path | None, minutes: float, store: Stores, console: Console) -> list[Quiet]:
    """Return every other recording of the folder, [] without a folder; no network was trained on these."""
    if folder is None:
        return []
    found: list[Quiet] = []

    def each() -> Iterator[tuple[int, int]]:
        files = video_files(folder)[1::2]
        for number, file in enumerate(files, start=1):
            fps = pixels.rate(file)
            most = max(1, int(minutes * 60 * fps / WINDOW_FRAMES))
            found.append(Quiet(file.name, store.features(file, most=most), fps))
            yield number, len(files)

    _show_progress(console, "quiet recordings", each())
    return found


def kept_digest(pieces: Sequence[Piece], folds: Any) -> str:
    """Return a digest of the clips in the fold that is never used for training; it must be equal in every record."""
    names = sorted(piece.path for piece, fold in zip(pieces, folds.tolist(), strict=True) if fold == KEPT)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _show_progress(console: Console, name: str, steps: Iterator[tuple[int, int]]) -> None:
    for done, total in steps:
        if done % 100 == 0 or done == total:
            console.print(f"{name}: {done} of {total}")


def circumstances() -> dict[str, Any]:
    """Return date, commit, machine and versions; the name of the machine is left out."""
    git = ["git", "-C", str(Path(trainer.__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    versions = {name: metadata.version(name) for name in ("torch", "numpy")}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "machine": {"cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"},
        "versions": versions,
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
