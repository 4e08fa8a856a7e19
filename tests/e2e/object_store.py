"""The part of S3's protocol that reading a log needs, over a folder, on loopback.

HEAD and GET of objects with ranges, ListObjectsV2 with prefix, delimiter and pages, and Signature Version 4
checked on every request, after the public descriptions (docs.aws.amazon.com, AmazonS3 API reference,
"Authenticating Requests: Using the Authorization Header"). A client meets real HTTP and XML.
"""

import hashlib
import hmac
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

KEY_ID, SECRET, REGION = "vitrina-test", "not-a-secret", "eu-test-1"
PAGE = 2
"""Keys a listing answers at once, small so that clients must ask for the next page."""


def signature(
    method: str, path: str, query: list[tuple[str, str]], headers: dict[str, str], day: str, secret: str
) -> str:
    """Signature Version 4 of a request with the given signed headers."""
    canonical_query = "&".join(
        f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query)
    )
    lines = "".join(f"{name}:{headers[name].strip()}\n" for name in sorted(headers))
    request = [method, quote(unquote(path), safe="/-_.~"), canonical_query, lines, ";".join(sorted(headers))]
    whole = "\n".join([*request, headers["x-amz-content-sha256"]])
    scope = f"{day}/{REGION}/s3/aws4_request"
    digest = hashlib.sha256(whole.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{digest}"
    key = f"AWS4{secret}".encode()
    for part in (day, REGION, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    root: Path
    asked: list[tuple[str, str, int]]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing is printed."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        query = parse_qsl(url.query, keep_blank_values=True)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        if bucket == "public":
            self._object(self.root / bucket / key)
        elif not self._is_signed(url.path, query):
            self._error(403, "SignatureDoesNotMatch")
        elif not (self.root / bucket).is_dir():
            self._error(404, "NoSuchBucket")
        elif not key:
            self._listing(bucket, dict(query))
        else:
            self._object(self.root / bucket / key)

    def _is_signed(self, path: str, query: list[tuple[str, str]]) -> bool:
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/[^/]+/s3/aws4_request, ?"
            r"SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})",
            self.headers.get("Authorization", ""),
        )
        if found is None or found[1] != KEY_ID:
            return False
        signed = {name: self.headers[name] for name in found[3].split(";")}
        return hmac.compare_digest(signature(self.command, path, query, signed, found[2], SECRET), found[4])

    def _listing(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        home = self.root / bucket
        names = sorted(str(file.relative_to(home)) for file in home.rglob("*") if file.is_file())
        keys, folders = [], set()
        for name in (name for name in names if name.startswith(prefix)):
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                keys.append(name)
        after = query.get("continuation-token") or query.get("start-after", "")
        left = [name for name in keys if name > after]
        page = left[:PAGE]
        is_cut = len(left) > PAGE
        entries = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2024-05-01T00:00:00.000Z</LastModified>"
            f'<ETag>"{_etag(home / name)}"</ETag><Size>{(home / name).stat().st_size}</Size></Contents>'
            for name in page
        )
        entries += "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)
        )
        entries += f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if is_cut else ""
        body = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>' + escape(bucket) + "</Name>"
            f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount><MaxKeys>{PAGE}</MaxKeys>"
            f"<IsTruncated>{str(is_cut).lower()}</IsTruncated>{entries}</ListBucketResult>"
        )
        self._send(200, body.encode(), {"Content-Type": "application/xml"})

    def _object(self, file: Path) -> None:
        if not file.is_file():
            self._error(404, "NoSuchKey")
            return
        whole = file.read_bytes()
        common = {"ETag": f'"{_etag(file)}"', "Last-Modified": "Wed, 01 May 2024 00:00:00 GMT"}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._send(200, whole, common | {"Accept-Ranges": "bytes"})
            return
        last = len(whole) - 1
        begin = int(asked[1]) if asked[1] else max(0, len(whole) - int(asked[2]))
        end = min(int(asked[2]), last) if asked[1] and asked[2] else last
        span = {"Content-Range": f"bytes {begin}-{end}/{len(whole)}"}
        self._send(206, whole[begin : end + 1], common | span)

    def _error(self, status: int, code: str) -> None:
        body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
        self._send(status, body.encode(), {"Content-Type": "application/xml"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.asked.append((self.command, self.path, len(body) if self.command == "GET" else 0))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _etag(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


@contextmanager
def object_store(root: Path) -> Iterator[tuple[str, list[tuple[str, str, int]]]]:
    """Folders of `root` as buckets (`public` needs no key); gives the address and what was asked, growing."""
    asked: list[tuple[str, str, int]] = []
    handler = type("BoundHandler", (Handler,), {"root": root, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
