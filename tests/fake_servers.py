"""A web server, and one that speaks as much of Google Cloud Storage's API as reading, writing and listing take."""

import contextlib
import http.server
import itertools
import json
import re
import threading
import urllib.parse


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    generations: dict[str, int]  # of files that were written here
    requests: list[str]
    with_ranges = True
    fault = staticmethod(lambda method, path: None)
    wbufsize = -1  # an answer in one packet: the operating system delays the second one

    def log_message(self, *_):
        pass

    def parse_request(self):
        """Answers itself where the server is told to fail."""
        if not super().parse_request():
            return False
        status = self.fault(self.command, urllib.parse.unquote(self.path))
        if status is not None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send(status, b"told to fail")
            self.wfile.flush()
        return status is None

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urllib.parse.urlparse(self.path)
        query = urllib.parse.parse_qs(url.query)
        self.requests.append(f"{self.command} {url.path} {self.headers.get('Range', '')}".strip())
        if match := re.fullmatch(r"/storage/v1/b/([^/]+)/o", url.path):
            self.send_list(match[1], query)
        elif match := re.fullmatch(r"/storage/v1/b/([^/]+)/o/([^/]+)", url.path):
            path = f"{match[1]}/{urllib.parse.unquote(match[2])}"
            self.send_file(path) if query.get("alt") == ["media"] else self.send_description(path)
        else:
            self.send_file(urllib.parse.unquote(url.path[1:]))

    def do_POST(self):
        url = urllib.parse.urlparse(self.path)
        query = urllib.parse.parse_qs(url.query)
        name, data = query["name"][0], self.rfile.read(int(self.headers["Content-Length"]))
        path = f"{re.fullmatch('/upload/storage/v1/b/([^/]+)/o', url.path)[1]}/{name}"
        self.requests.append(f"POST {path}")
        with self.lock:
            if not self.is_as_expected(path, query):
                self.send(412)
                return
            self.files[path] = data
            self.generations[path] = next(self.counter)
            generation = self.generation(path)
        self.send(200, json.dumps({"name": name, "generation": generation}).encode())

    def do_DELETE(self):
        url = urllib.parse.urlparse(self.path)
        bucket, name = re.fullmatch(r"/storage/v1/b/([^/]+)/o/([^/]+)", url.path).groups()
        path = f"{bucket}/{urllib.parse.unquote(name)}"
        self.requests.append(f"DELETE {path}")
        with self.lock:
            as_expected = self.is_as_expected(path, urllib.parse.parse_qs(url.query))
            known = self.files.pop(path, None) is not None if as_expected else path in self.files
        self.send((204 if known else 404) if as_expected else 412)

    def generation(self, path):
        """A number that changes with each write; "0" stands for no file."""
        if path not in self.files:
            return "0"
        return str(self.generations.get(path) or sum(self.files[path]) + len(self.files[path]))

    def is_as_expected(self, path, query):
        return query.get("ifGenerationMatch", [self.generation(path)])[0] == self.generation(path)

    def send_list(self, bucket, query):
        first, end = query.get("startOffset", [""])[0], query.get("endOffset", ["\U0010ffff"])[0]
        paths = sorted(path for path in list(self.files) if path.startswith(f"{bucket}/"))
        names = [path.partition("/")[2] for path in paths]
        items = [{"name": name, "generation": self.generation(f"{bucket}/{name}")} for name in names]
        items = [item for item in items if first <= item["name"] < end]
        self.send(200, json.dumps({"items": items}).encode())

    def send_description(self, path):
        if path not in self.files:
            self.send(404)
            return
        name, size = path.partition("/")[2], str(len(self.files[path]))
        self.send(200, json.dumps({"name": name, "generation": self.generation(path), "size": size}).encode())

    def send_file(self, path):
        if path not in self.files:
            self.send(404)
            return
        data, wanted = self.files[path], self.headers.get("Range")
        generation = {"x-goog-generation": self.generation(path)}
        if not (wanted and self.with_ranges):
            self.send(200, data, generation)
            return
        start, end = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted).groups()
        part = data[int(start) : int(end) + 1 if end else None]
        if part:
            place = {"Content-Range": f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"}
            self.send(206, part, generation | place)
        else:
            self.send(416, headers={"Content-Range": f"bytes */{len(data)}"})

    def send(self, status, body=b"", headers=None):
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **(headers or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # of the default 5, TensorStore's many requests at once fill all, and wait for seconds


@contextlib.contextmanager
def serving(files, with_ranges=True, fault=Handler.fault):
    """Serves `{path: bytes}`; gives (address, list of requests). GCS paths begin with their bucket.

    `fault` gives the status of an error for a request's method and path, or None.
    """
    requests = []
    state = {"generations": {}, "counter": itertools.count(1), "lock": threading.Lock()}
    handler = type("Handler", (Handler,), {"files": files, "requests": requests, "with_ranges": with_ranges} | state)
    handler.fault = staticmethod(fault)
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()
        thread.join()
