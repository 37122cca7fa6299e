"""`stream-detector models`: list, show, add, fetch, verify and quantise models."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from stream_detector.errors import BundleError, CheckpointError, StreamDetectorError
from stream_detector.models.download import Progress as Report
from stream_detector.models.known_weights import KNOWN, cache_directory
from stream_detector.system import signals
from stream_detector.system.stdio import json_text

if TYPE_CHECKING:  # these load PyTorch; the functions below import them
    from stream_detector.models.manifest import Manifest
    from stream_detector.models.weights import StoredWeights


def add_parser(subparsers: Any) -> None:
    """Declare the command `models` and its actions."""
    parser = subparsers.add_parser(
        "models",
        help="list, show, add, fetch and verify models",
        description="List, show, add, fetch, verify and quantise models.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = actions.add_parser(name, help=summary, description=summary)
        made.add_argument("--json", action="store_true", help="print JSON")
        return made

    action("list", "list local bundles and weights, and weights that can be fetched")
    action("show", "show the card of a bundle or of weights").add_argument(
        "name", metavar="NAME_OR_DIR", help="bundle or weights"
    )
    add = action("add", "convert checkpoint files (.pth, .safetensors, the I3D archive) into the cache")
    add.add_argument("files", nargs="+", type=Path, metavar="FILE", help="checkpoint file to convert; may be several")
    add.add_argument("--arch", help="architecture of the checkpoint; any other one is refused")
    add.add_argument("--name", help="name in the cache (one file only)")
    action("fetch", "download, verify and convert weights").add_argument("name", help=", ".join(KNOWN))
    action("verify", "check all local bundles and weights")
    quantise = action("quantise", "make the int8 graph of a bundle, calibrated with windows of your own footage")
    quantise.add_argument("name", metavar="BUNDLE", help="name or folder of the bundle")
    quantise.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="footage of your cameras")
    quantise.add_argument(
        "--windows", type=int, default=128, help="highest number of calibration windows (default 128)"
    )


def main(args: argparse.Namespace) -> int:
    """Run one action; return the exit code: 0, or 1 if `verify` found a fault."""
    console = Console()
    if args.action == "list":
        return _list(args.json, console)
    if args.action == "show":
        return _show(args.name, args.json, console)
    if args.action == "verify":
        return _verify(args.json, console)
    if args.action == "quantise":
        return _quantise(args, console)
    if args.action == "fetch":
        with _progress(f"fetching {args.name}", not args.json) as report:
            records = [_fetch(args.name, report)]
    else:
        if args.name and len(args.files) > 1:
            raise CheckpointError("--name is for one file; give one file, or leave --name out")
        from stream_detector.models import weights

        records = [weights.add_checkpoint(file, args.name, args.arch) for file in args.files]
    if args.json:
        _print_json([asdict(record) for record in records])
    for record in [] if args.json else records:
        console.print(f"[green]{record.name}[/] is a {record.arch}, stored in {record.directory}", highlight=False)
    return 0


def _fetch(name: str, report: Report | None) -> StoredWeights:
    from stream_detector.models import weights

    try:
        return weights.fetch(name, report)
    except signals.Interrupted:
        if any((cache_directory() / "downloads").glob("*.part")):
            print(
                "stream-detector: the downloaded part is kept; the same command continues the download", file=sys.stderr
            )
        raise


def here() -> dict[str, Manifest | str]:
    """Return the local bundles: name → manifest, or an error message. Only the manifests are read."""
    from stream_detector.models import bundle as bundles

    places = (cache_directory() / "bundles", bundles.SHIPPED)  # shipped bundles take precedence over those in the cache
    folders = {p.parent.name: p.parent for place in places for p in sorted(place.glob("*/bundle.json"))}
    found: dict[str, Manifest | str] = {}
    for name, folder in folders.items():
        try:
            found[name] = bundles.read_manifest(folder)
        except BundleError as error:
            found[name] = str(error)
    return found


def _list(as_json: bool, console: Console) -> int:
    from stream_detector.models import weights

    found, stored = here(), weights.stored()
    missing = [known for name, known in KNOWN.items() if name not in {record.name for record in stored}]
    if as_json:
        listed = [{"name": n, "error": m} if isinstance(m, str) else _short(n, m) for n, m in found.items()]
        fetchable = [asdict(known) for known in missing]
        _print_json({"bundles": listed, "weights": [asdict(r) for r in stored], "can_be_fetched": fetchable})
        return 0
    table = Table("bundle", "backbone", "features", "threshold", "fingerprint", title="Bundles", title_justify="left")
    for name, manifest in found.items():
        if isinstance(manifest, str):
            table.add_row(name, f"[red]{escape(manifest)}[/]", "", "", "")
        else:
            short = _short(name, manifest)
            table.add_row(*(str(short[key]) for key in ("name", "backbone", "features", "threshold", "fingerprint")))
    console.print(table)
    table = Table("weights", "backbone", "size", "state", "licence", title="Weights", title_justify="left")
    for record in stored:
        table.add_row(record.name, record.arch, _size(record.bytes), "here", escape(record.licence))
    for known in missing:
        table.add_row(known.name, known.arch, _size(known.bytes), f"models fetch {known.name}", known.licence)
    console.print(table)
    console.print(f"cache: {cache_directory()}", highlight=False)
    return 0


def _show(name: str, as_json: bool, console: Console) -> int:
    from stream_detector.models import bundle as bundles
    from stream_detector.models import weights

    try:
        manifest = bundles.read_manifest(bundles.find_bundle(name))
    except BundleError:
        if name not in {record.name for record in weights.stored()}:
            raise
        record = asdict(weights.show(name))
        if as_json:
            _print_json(record)
        else:
            console.print(_card(f"Weights {name}", record))
        return 0
    values = manifest.model_dump(mode="json", by_alias=True)
    if as_json:
        _print_json({**values, "fingerprint": manifest.fingerprint})
        return 0
    console.print(_card(f"Bundle {manifest.name}", {"fingerprint": manifest.fingerprint, **values}))
    return 0


def _verify(as_json: bool, console: Console) -> int:
    from stream_detector.models import weights
    from stream_detector.models.bundle import Bundle
    from stream_detector.models.manifest import Manifest

    result = {f"weights {name}": state for name, state in weights.verify().items()}
    for name, manifest in here().items():
        try:
            if isinstance(manifest, Manifest):
                Bundle.load(name)
            result[f"bundle {name}"] = "ok" if isinstance(manifest, Manifest) else manifest
        except StreamDetectorError as error:
            result[f"bundle {name}"] = str(error)
    if as_json:
        _print_json(result)
    else:
        for name, state in result.items():
            console.print(f"{name}: [{'green' if state == 'ok' else 'red'}]{escape(state)}[/]", highlight=False)
        if not result:
            console.print("there are no bundles and no weights yet")
    return 0 if all(state == "ok" for state in result.values()) else 1


def _quantise(args: argparse.Namespace, console: Console) -> int:
    from stream_detector.engines.quantise import calibration_windows, quantise
    from stream_detector.models.bundle import Bundle

    bundle = Bundle.load(args.name)
    frames = calibration_windows(args.videos, bundle.recipe, args.windows)
    path = quantise(bundle, frames)
    if args.json:
        _print_json({"bundle": bundle.name, "windows": len(frames), "graph": str(path)})
    else:
        console.print(f"int8 graph of {bundle.name}, calibrated with {len(frames)} windows: {path}", highlight=False)
    return 0


def _short(name: str, manifest: Manifest) -> dict[str, Any]:
    return {
        "name": name,
        "backbone": manifest.backbone.arch,
        "features": manifest.backbone.feature_dim,
        "threshold": manifest.threshold.value,
        "fingerprint": manifest.fingerprint,
    }


def _card(title: str, values: dict[str, Any]) -> Table:
    table = Table(title=escape(title), show_header=False, title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")

    def rows(prefix: str, part: dict[str, Any]) -> None:
        for key, value in part.items():
            if isinstance(value, dict):
                rows(f"{prefix}{key}.", value)
            elif value not in (None, ""):
                text = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)
                table.add_row(escape(prefix + key), escape(text))

    rows("", values)
    return table


@contextlib.contextmanager
def _progress(title: str, visible: bool) -> Iterator[Report | None]:
    if not visible:
        yield None
        return
    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


def _size(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def _print_json(value: Any) -> None:
    print(json_text(value))
