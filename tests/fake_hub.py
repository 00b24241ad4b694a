"""As much of the Hugging Face hub, on this machine, as making a model, pushing to it and copying from it take."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    models: dict[str, dict[str, bytes]]
    token: str

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        if path.startswith("/api/models/"):
            owner, name, *rest = path.removeprefix("/api/models/").split("/")
            self.send_tree(f"{owner}/{name}") if rest[:1] == ["tree"] else self.send_info(f"{owner}/{name}")
        else:
            model, _, rest = path[1:].partition("/resolve/")
            self.send_file(model, rest.partition("/")[2])

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urllib.parse.urlparse(self.path).path
        if path == "/api/validate-yaml":
            self.send_json(200, {"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {self.token}":
            self.send_json(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            made = json.loads(body)
            model = f"{made['organization']}/{made['name']}" if made.get("organization") else f"me/{made['name']}"
            self.models.setdefault(model, {})
            self.send_json(200, {"url": f"http://{self.headers['Host']}/{model}"})
        elif path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.send_json(200, {"files": files})
        else:
            self.commit(path.removeprefix("/api/models/").removesuffix("/commit/main"), body)

    def commit(self, model, body):
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.models[model][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        url = f"http://{self.headers['Host']}/{model}/commit/{COMMIT}"
        self.send_json(200, {"success": True, "commitOid": COMMIT, "commitUrl": url})

    def send_info(self, model):
        if model not in self.models:
            self.send_json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        siblings = [{"rfilename": name} for name in self.models[model]]
        self.send_json(200, {"id": model, "sha": COMMIT, "siblings": siblings, "private": False})

    def send_tree(self, model):
        files = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in self.models[model].items()
        ]
        self.send_json(200, files)

    def send_file(self, model, name):
        data = self.models.get(model, {}).get(name)
        if data is None:
            self.send_json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self.send(200, data, headers)

    def send_json(self, status, content, headers=None):
        self.send(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send(self, status, body, headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextlib.contextmanager
def serving(models, token="a-token"):
    """A hub with `{name: {file: bytes}}`, to which `token` may write; gives its address."""
    handler = type("Handler", (Handler,), {"models": models, "token": token})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
