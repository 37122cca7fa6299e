"""Writes requirements-dev.lock: the exact version of everything that development needs, as installed here.

    python packaging/lock.py            # write
    python packaging/lock.py --check    # exit 1 where the file does not fit pyproject.toml

The versions are those that the tests were last run with, of the packages that the extras below lead to. A package that
is needed on other systems only, or is not installed, is not in the file.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements-dev.lock"
EXTRAS = ("dev", "openvino", "web")
OWN = {"stream-detector", "stream-detector-trainer"}
HEADER = """# Exact versions for development, written by `python packaging/lock.py`; see CONTRIBUTING.md.
#     sh .ci/install-torch.sh && pip install -r requirements-dev.lock
#     pip install --no-deps -e . -e ./packaging/trainer
"""


def direct() -> list[Requirement]:
    """What pyproject.toml asks for with EXTRAS, and what the trainer asks for."""
    found: list[str] = []
    for folder in (ROOT, ROOT / "packaging" / "trainer"):
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        found += project["dependencies"]
        extras = project.get("optional-dependencies", {})
        wanted = list(EXTRAS) if folder == ROOT else []
        while wanted:
            for text in extras.get(wanted.pop(), []):
                requirement = Requirement(text)
                if canonicalize_name(requirement.name) in OWN:
                    wanted += requirement.extras
                found.append(text)
    return [r for r in map(Requirement, found) if canonicalize_name(r.name) not in OWN]


def closure(requirements: list[Requirement]) -> dict[str, str]:
    """Versions, by name, of the requirements and of all that they need, as far as it is installed here."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(requirement, "") for requirement in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = distribution.version.partition("+")[0]
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                waiting += [(Requirement(text), wanted) for text in distribution.requires or []]
    return found


def locked() -> dict[str, str]:
    """Versions by name in the file."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", LOCK.read_text(encoding="utf-8"), re.MULTILINE))


def problems() -> list[str]:
    """What pyproject.toml asks for and the file does not give, one sentence each."""
    given, found = locked(), []
    for requirement in direct():
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if name not in given:
            found.append(f"{name} is missing")
        elif not requirement.specifier.contains(given[name], prereleases=True):
            found.append(f"{name}=={given[name]} is not {requirement.specifier}")
    return found


def main(argv: list[str]) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the file does not fit")
    if parser.parse_args(argv).check:
        wrong = problems()
        print("\n".join([*wrong, *(["run `python packaging/lock.py`"] if wrong else [])]))
        return 1 if wrong else 0
    lines = [f"{name}=={version}" for name, version in sorted(closure(direct()).items())]
    LOCK.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {LOCK.name}: {len(lines)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
