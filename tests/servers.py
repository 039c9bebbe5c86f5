"""Servers on the loopback: one that hands out the files of a folder, and one that fails in front of another."""

import http.client
import http.server
import itertools
import re
import threading
from contextlib import contextmanager


@contextmanager
def serving(handler):
    """Run a server in a thread; yield it, with its ``port``, and close all that it opened."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = False  # so that closing waits for those that answer
    server.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Python's own server, which does not know ``Range``."""

    def log_message(self, *_):
        pass


class WithRange(Quiet):
    """Python's server, and ``Range``."""

    def do_GET(self):
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not match:
            super().do_GET()
            return
        try:
            with open(self.translate_path(self.path), "rb") as file:  # noqa: PTH123 - a string
                content = file.read()
        except OSError:
            self.send_error(404)
            return
        first, last = match.groups()
        start = int(first) if first else max(0, len(content) - int(last))
        stop = min(len(content), int(last) + 1) if first and last else len(content)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.wfile.write(content[start:stop])


def files_in(folder, kind=WithRange):
    """Serve the files of a folder."""
    return serving(lambda *args: kind(*args, directory=str(folder)))


class Forward(http.server.BaseHTTPRequestHandler):
    """Hand a request on, unless `fault` of the server says otherwise: a status, or ``close``, or ``cut``."""

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault(next(self.server.count), f"{self.command} {self.path}")
        if fault == "close":
            self.close_connection = True
            return
        if fault and fault != "cut":
            self.send_response(fault)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        back = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=20)
        try:
            back.request(self.command, self.path, body, dict(self.headers))
            answer = back.getresponse()
            content = answer.read()
        finally:
            back.close()
        self.send_response(answer.status)
        length = answer.headers.get("Content-Length") if self.command == "HEAD" else str(len(content))
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        is_cut = fault == "cut" and answer.status < 300
        self.wfile.write(content[: len(content) // 2] if is_cut else content)
        self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer

    def log_message(self, *_):
        pass


@contextmanager
def failing(port, fault):
    """Run a server that hands requests on to another, except where ``fault(n, request)`` says how they fail."""
    with serving(Forward) as server:
        server.behind, server.fault, server.count = port, fault, itertools.count()
        yield server
