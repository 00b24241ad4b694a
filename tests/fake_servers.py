"""A web server, and one that speaks as much of Google Cloud Storage's API as reading, listing and writing take."""

import contextlib
import http.server
import json
import re
import threading
import urllib.parse


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    requests: list[str]
    with_ranges = True
    wbufsize = -1  # an answer in one packet: the operating system delays the second one

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urllib.parse.urlparse(self.path)
        query = urllib.parse.parse_qs(url.query)
        self.requests.append(f"{self.command} {url.path} {self.headers.get('Range', '')}".strip())
        if match := re.fullmatch(r"/storage/v1/b/([^/]+)/o", url.path):
            self.send_list(match[1], query)
        elif match := re.fullmatch(r"/storage/v1/b/([^/]+)/o/([^/]+)", url.path):
            self.send_file(f"{match[1]}/{urllib.parse.unquote(match[2])}")
        else:
            self.send_file(urllib.parse.unquote(url.path[1:]))

    def do_POST(self):
        url = urllib.parse.urlparse(self.path)
        name = urllib.parse.parse_qs(url.query)["name"][0]
        bucket = re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", url.path)[1]
        self.files[f"{bucket}/{name}"] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send(200, json.dumps({"name": name, "generation": "1"}).encode())

    def send_list(self, bucket, query):
        first, end = query.get("startOffset", [""])[0], query.get("endOffset", ["\U0010ffff"])[0]
        names = sorted(path.partition("/")[2] for path in self.files if path.startswith(f"{bucket}/"))
        items = [{"name": name, "generation": "1"} for name in names if first <= name < end]
        self.send(200, json.dumps({"items": items}).encode())

    def send_file(self, path):
        if path not in self.files:
            self.send(404)
            return
        data, wanted = self.files[path], self.headers.get("Range")
        if not (wanted and self.with_ranges):
            self.send(200, data)
            return
        start, end = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted).groups()
        part = data[int(start) : int(end) + 1 if end else None]
        if part:
            self.send(206, part, {"Content-Range": f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"})
        else:
            self.send(416, headers={"Content-Range": f"bytes */{len(data)}"})

    def send(self, status, body=b"", headers=None):
        self.send_response(status)
        generation = str(sum(body) + len(body)) if status == 200 else "7"
        headers = {"Content-Length": str(len(body)), "x-goog-generation": generation, **(headers or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextlib.contextmanager
def serving(files, with_ranges=True):
    """Serves `{path: bytes}`; gives (address, list of requests). GCS paths begin with their bucket."""
    requests = []
    handler = type("Handler", (Handler,), {"files": files, "requests": requests, "with_ranges": with_ranges})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()
        thread.join()
