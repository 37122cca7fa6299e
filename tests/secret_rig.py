"""Addresses with random secrets in them, and the search for these in what came out."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

from hypothesis import strategies as st

LIKELY = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ123456789"
AWKWARD = "'\"/\\#@%?&=:;,!$()*+[]{}<>|^~`_-. äß€"
HOSTS = ("10.0.0.7", "camera.local", "[::1]", "10.0.0.7:8554", "[fe80::1]:554", "Kamera-3")
# Where a secret may stand; {0} is the secret, {1} the host.
PLACES = {
    "user": "{0}@{1}/live",
    "user and password": "{0}:other@{1}/live",
    "password": "admin:{0}@{1}/live",
    "password, no path": "admin:{0}@{1}",
    "token": ":{0}@{1}/live",
    "path": "{1}/user=admin_password={0}_channel=1_stream=0.sdp",
    "folder": "{1}/{0}/live",
    "query": "{1}/video?user=admin&pwd={0}",
    "unknown key": "{1}/video?zugang={0}&x=1",
    "query alone": "{1}?{0}",
    "fragment": "{1}/live#{0}",
    "twice": "admin:{0}@{1}/cgi?user=admin&pass={0}#{0}",
    "no host": "admin:{0}@",
    "bad port": "admin:{0}@{1}:99999/live",
}
SCHEMES = ("rtsp://", "rtsps://", "http://", "https://", "RTSP://", "Http://")
BROKEN = ("", "rtsp:/", "rtsp:", "rtps://", "ftp://", "file://", "//", "'rtsp://")


@dataclass(frozen=True)
class Address:
    """text: what the user wrote.  secret: what must not come out.  exact: whether its encoding is beyond doubt."""

    text: str
    secret: str
    place: str
    exact: bool


def secrets() -> st.SearchStrategy[str]:
    """At least 8 characters, of enough different ones not to stand in an output by chance; '${' is a reference."""
    characters = st.one_of(st.sampled_from(LIKELY), st.sampled_from(AWKWARD))
    words = st.lists(characters, min_size=8, max_size=20).map("".join)
    return words.filter(lambda s: len(set(re.sub(r"\W|_", "", s))) >= 5 and "${" not in s and s == s.strip())


@st.composite
def addresses(draw: st.DrawFn, broken: bool = True, places: tuple[str, ...] = tuple(PLACES)) -> Address:
    """An address with a secret somewhere, raw or percent-encoded; broken: also such that are none."""
    secret = draw(secrets())
    way = draw(st.sampled_from(("raw", "percent", "plus")))
    written = {"raw": secret, "percent": quote(secret, safe=""), "plus": quote_plus(secret)}[way]
    place = draw(st.sampled_from(places))
    rest = PLACES[place].format(written, draw(st.sampled_from(HOSTS))) if "{" not in written else ""
    if not rest:
        rest = PLACES[place].replace("{1}", draw(st.sampled_from(HOSTS))).replace("{0}", written)
    scheme = draw(st.sampled_from(SCHEMES + BROKEN if broken else SCHEMES))
    if place == "folder" and scheme in ("", "//"):  # without a scheme that is a path, and a path is shown
        scheme = "rtsp://"
    plain = re.fullmatch(r"[^/?#@%\[\]]*", secret) is not None
    return Address(scheme + rest, secret, place, way == "percent" or (way == "raw" and plain))


def forms(address: Address) -> set[str]:
    """What a secret may look like in an output."""
    secret = address.secret
    found = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}
    found |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], secret.replace('"', '""')}
    found |= {secret.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&#34;")}
    found |= {part for part in re.split(r"[^A-Za-z0-9]+", secret) if len(part) >= 8}  # also a good part of it
    return found


def check(address: Address, *outputs: object) -> None:
    """Fail where the secret stands in an output: text, bytes, or anything by its text."""
    for output in outputs:
        text = output.decode("utf-8", "replace") if isinstance(output, bytes) else str(output)
        for form in forms(address):
            place = text.find(form)
            assert place < 0, f"{form!r} of {address} in {text[max(0, place - 80) : place + len(form) + 40]!r}"
