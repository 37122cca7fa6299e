"""Webhook: each notice as a signed HTTPS POST, to an address that was checked after its name was resolved.

Headers: `X-Timestamp` (seconds since the epoch), `X-Signature: sha256=HEX` (HMAC-SHA256 over "TIMESTAMP.BODY" with the
shared secret), `Idempotency-Key` (equal in every try of a notice). Redirects are not followed, proxies of the
environment are not used, certificates are always checked.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import ipaddress
import logging
import socket
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr

from stream_detector.bridges.address_rules import AddressError, Network, parse_networks, resolve
from stream_detector.bridges.kinds import DeliveryError, SecretText, Target, TargetContext, TargetSettings
from stream_detector.bridges.notice import Notice
from stream_detector.errors import ConfigError, StreamDetectorError
from stream_detector.events.protocol import decode_object, encode
from stream_detector.events.writes import parse_write
from stream_detector.system.version import version

log = logging.getLogger(__name__)

WEBHOOK_SCHEMA = "stream-detector.webhook/1"
_AWAY = (408, 425, 429, 502, 503, 504)
_READ_BYTES = 65_536


def _networks(texts: tuple[str, ...]) -> tuple[str, ...]:
    parse_networks(texts)
    return texts


class WebhookSettings(TargetSettings):
    """`[webhook.NAME]`."""

    secrets: ClassVar[tuple[str, ...]] = ("url", "secret", "token")

    url: SecretText  # the path or query may hold a secret, so only scheme, host and port are ever shown
    secret: SecretText | None = None  # key of the signature; without it requests are not signed
    token: SecretText | None = None  # sent as `Authorization: Bearer …`
    verify: bool = False  # the answer to the start of an alarm may be a verdict, which is written to the detector
    allow: Annotated[tuple[str, ...], AfterValidator(_networks)] = ()  # networks; (): public addresses only
    ca_file: Path | None = None  # certificates to trust instead of the system's


class _Pinned(http.client.HTTPSConnection):
    """A connection to a checked address, with the certificate checked for the name."""

    def __init__(self, host: str, port: int, address: str, timeout_s: float, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=timeout_s, context=context)
        self._address, self._tls = address, context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), self.timeout)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


class Webhook(Target):
    """One URL."""

    Settings = WebhookSettings

    def __init__(self, settings: WebhookSettings, context: TargetContext) -> None:
        super().__init__(settings, context)
        self._given = settings
        url = settings.url.get_secret_value().strip()
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname or "", parts.port or 443
        except ValueError:
            raise ConfigError("url is not an address; write https://HOST/PATH") from None
        if parts.scheme != "https" or not self._host or any(ord(c) < 33 or ord(c) > 126 for c in url):
            raise ConfigError("url must be https://HOST/PATH in ASCII, as TLS protects what is sent")
        if parts.username is not None:
            raise ConfigError("url holds a user name; give `token` or `token_file` instead")
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._allowed: tuple[Network, ...] = parse_networks(settings.allow)
        try:
            self._tls = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
        except (OSError, ssl.SSLError):
            raise ConfigError("ca_file cannot be read; give a file of PEM certificates") from None
        if _is_address(self._host) and not self._allowed and not ipaddress.ip_address(self._host).is_global:
            raise ConfigError("url names a private address; add its network to `allow`, for instance 192.168.1.0/24")

    def deliver(self, notice: Notice) -> Mapping[str, Any]:
        """POST it. Raises DeliveryError."""
        body = self.body(notice, picture=self._given.snapshot)
        status, retry_s, said = self._post(body, self._headers(notice, body))
        if status == 413 and self._given.snapshot:  # too large: the event is more important than its picture
            body = self.body(notice, picture=False)
            status, retry_s, said = self._post(body, self._headers(notice, body))
        if 200 <= status < 300 and self._given.verify and notice.kind == "alarm" and notice.what == "start":
            self._verdict(notice, said)
        if 200 <= status < 300:
            return {}
        if status in _AWAY:
            raise DeliveryError("unreachable", f"answered {status}", retry_s)
        if status >= 500:
            raise DeliveryError("failed", f"answered {status}", retry_s)
        raise DeliveryError("refused", f"answered {status}" + (", a redirect" if 300 <= status < 400 else ""))

    def _verdict(self, notice: Notice, said: bytes) -> None:
        """Write the verdict that an answer holds. An invalid answer counts as none."""
        try:
            answer = decode_object(said, _READ_BYTES, "answer") if said.strip() else {}
            if "verdict" not in answer:
                return
            place = {"camera": notice.camera, "id": notice.body.get("id"), "alarm_epoch": notice.epoch}
            told = {"note": str(answer.get("note", ""))[:500], "by": str(answer.get("by", self.context.name))[:64]}
            value = {"kind": "verdict", "verdict": answer["verdict"], **place, **told}
            parse_write(value)
            self.context.write(value)
        except StreamDetectorError as error:
            log.warning("%s: the verifier's answer was not taken: %s", self.context.name, error)

    def body(self, notice: Notice, picture: bool) -> bytes:
        """Return the JSON to send; equal at every try except for the picture, which may be added later."""
        jpeg = self.context.evidence.picture(notice) if picture else None
        snapshot = jpeg and {"content_type": "image/jpeg", "base64": base64.b64encode(jpeg).decode("ascii")}
        return encode(
            {
                "schema": WEBHOOK_SCHEMA,
                "key": notice.key,
                "topic": notice.topic,
                "kind": notice.kind,
                "what": notice.what,
                "severity": notice.severity,
                "event": notice.body,
                "snapshot": snapshot or None,
            }
        )

    def _headers(self, notice: Notice, body: bytes) -> dict[str, str]:
        timestamp = str(int(self.context.clock.utc()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"stream-detector/{version()}",
            "Idempotency-Key": notice.key,
            "X-Timestamp": timestamp,
            "X-Attempt": str(notice.attempts + 1),
            "Connection": "close",
        }
        if self._given.secret is not None:
            headers["X-Signature"] = sign(self._given.secret, timestamp, body)
        if self._given.token is not None:
            headers["Authorization"] = f"Bearer {self._given.token.get_secret_value()}"
        return headers

    def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, float, bytes]:
        """(status, Retry-After in seconds, body) of an answer. Raises DeliveryError."""
        try:
            addresses = resolve(self._host, self._port, self._allowed)
        except AddressError as error:
            raise DeliveryError("unreachable", str(error)) from None
        problem = "cannot be reached"
        for address in addresses:
            connection = _Pinned(self._host, self._port, address, self._given.timeout_s, self._tls)
            try:
                connection.connect()
            except ssl.SSLCertVerificationError:
                connection.close()
                raise DeliveryError("unreachable", "its TLS certificate is not valid for its name") from None
            except (OSError, ValueError) as error:
                connection.close()
                problem = _why(error)
                continue
            return self._exchange(connection, body, headers)
        raise DeliveryError("unreachable", problem)

    def _exchange(
        self, connection: http.client.HTTPSConnection, body: bytes, headers: dict[str, str]
    ) -> tuple[int, float, bytes]:
        # bounds the whole exchange: a server that sends slowly must not block the thread
        over = threading.Timer(self._given.timeout_s, _hang_up, (connection,))
        over.daemon = True
        over.start()
        try:
            connection.request("POST", self._path, body, headers)
            answer = connection.getresponse()
            said = answer.read(_READ_BYTES)
            return answer.status, _seconds(answer.headers.get("Retry-After")), said
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            raise DeliveryError("unknown", _why(error)) from None
        finally:
            over.cancel()
            connection.close()


def sign(secret: SecretStr, timestamp: str, body: bytes) -> str:
    """The value of X-Signature."""
    message = timestamp.encode() + b"." + body
    return "sha256=" + hmac.new(secret.get_secret_value().encode(), message, hashlib.sha256).hexdigest()


def _hang_up(connection: http.client.HTTPSConnection) -> None:
    sock = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isascii() and text.isdigit() and len(text) < 7 else 0.0


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "did not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "refused the connection"
    if isinstance(error, ssl.SSLError):
        return "could not agree on TLS"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be reached ({error.strerror})"
    return "broke off"
