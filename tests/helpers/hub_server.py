"""A server that answers as a model hub does, in as far as models are read and written here."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Hub:
    """models: name → revision → {file: bytes}, the last revision being 'main'. requests: those answered, as
    'GET /path'. token: what a writer must show."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, dict[str, bytes]]] = {}
        self.requests: list[str] = []
        self.token = 'hf_of_a_test'
        self.url = ''

    def add(self, name: str, files: dict[str, bytes]) -> str:
        """Adds a commit to a model; returns its revision."""
        text = repr(sorted(files.items())) + str(len(self.models.get(name, {})))
        revision = hashlib.sha1(text.encode()).hexdigest()
        self.models.setdefault(name, {})[revision] = files
        return revision

    def add_folder(self, name: str, folder: Path) -> str:
        """Adds all files of a folder."""
        paths = [path for path in folder.rglob('*') if path.is_file()]
        return self.add(name, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})

    def revision(self, name: str, asked: str) -> str | None:
        """The full revision; None where there is no such model or revision."""
        revisions = self.models.get(name, {})
        return list(revisions)[-1] if asked == 'main' and revisions else asked if asked in revisions else None


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    """A hub without models, on a free port of this machine."""
    hub = Hub()
    handler = type('Handler', (_Handler,), {'hub': hub})
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    hub.url = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = 'HTTP/1.1'

    def do_HEAD(self) -> None:
        self._get(body=False)

    def do_GET(self) -> None:
        self._get(body=True)

    def _get(self, body: bool) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip('/').split('/')]
        if parts[:2] == ['api', 'models']:
            name, asked = '/'.join(parts[2:4]), parts[5] if len(parts) > 5 else 'main'
            revision = self.hub.revision(name, asked)
            if revision is None:
                return self._missing('Repository' if name not in self.hub.models else 'Revision')
            files = self.hub.models[name][revision]
            if parts[4:5] == ['tree']:
                entries = [
                    {'type': 'file', 'path': path, 'size': len(data), 'oid': hashlib.sha1(data).hexdigest()}
                    for path, data in files.items()
                ]
                return self._json(entries)
            siblings = [{'rfilename': path} for path in files]
            return self._json({'id': name, 'modelId': name, 'sha': revision, 'siblings': siblings})
        if parts[2:3] == ['resolve']:
            name, asked, path = '/'.join(parts[:2]), parts[3], '/'.join(parts[4:])
            revision = self.hub.revision(name, asked)
            data = self.hub.models.get(name, {}).get(revision or '', {}).get(path)
            if revision is None or data is None:
                return self._missing('Entry')
            headers = {'ETag': f'"{hashlib.sha1(data).hexdigest()}"', 'X-Repo-Commit': revision}
            return self._send(200, data, headers, body)
        return self._missing('Entry')

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        parts = urlsplit(self.path).path.strip('/').split('/')
        if self.headers.get('Authorization') != f'Bearer {self.hub.token}':
            return self._json({'error': 'Invalid username or password.'}, 401)
        if parts == ['api', 'repos', 'create']:
            asked = json.loads(data)
            name = f'{asked["organization"]}/{asked["name"]}' if asked.get('organization') else asked['name']
            self.hub.models.setdefault(name, {})
            return self._json({'url': f'{self.hub.url}/{name}', 'id': name})
        if parts == ['api', 'validate-yaml']:
            return self._json({'errors': [], 'warnings': []})
        name = '/'.join(parts[2:4])
        if parts[4:5] == ['preupload']:
            paths = [file['path'] for file in json.loads(data)['files']]
            return self._json(
                {'files': [{'path': path, 'uploadMode': 'regular', 'shouldIgnore': False} for path in paths]}
            )
        if parts[4:5] == ['commit']:
            lines = [json.loads(line) for line in data.splitlines() if line]
            files = {
                line['value']['path']: base64.b64decode(line['value']['content'])
                for line in lines
                if line['key'] == 'file'
            }
            revision = self.hub.add(name, files)
            url = f'{self.hub.url}/{name}/commit/{revision}'
            return self._json({'success': True, 'commitOid': revision, 'commitUrl': url, 'hookOutput': ''})
        return self._missing('Entry')

    def _missing(self, what: str) -> None:
        code = {'Repository': 'RepoNotFound', 'Revision': 'RevisionNotFound', 'Entry': 'EntryNotFound'}[what]
        self._json({'error': f'{what} not found'}, 404, {'X-Error-Code': code})

    def _json(self, value: object, status: int = 200, headers: dict | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {'Content-Type': 'application/json'} | (headers or {}))

    def _send(self, status: int, data: bytes, headers: dict, body: bool = True) -> None:
        self.hub.requests.append(f'{self.command} {self.path}')
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Keeps the console clean."""
