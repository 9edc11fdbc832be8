"""Headless Chromium with one tab, on a page that this run serves: MQTT.js as a web page loads it."""

import contextlib
import http.server
import json
import os
import queue
import threading
from pathlib import Path
from urllib.parse import urlencode

from clients import Hearer
from process import Process, wait_until

HERE = Path(__file__).parent

# Chromium is slow to start where much else runs.
START_SECONDS = 30

# A request for a command is answered after this long even if there is none.
COMMAND_SECONDS = 1


class Tab(Hearer):
    """A tab in which MQTT.js runs under default options. Its page tells what happens, and asks what to do, over HTTP.

    With a trusted key it speaks WebSocket over TLS, and believes a certificate with that key and no other.
    """

    def __init__(self, port, folder, client_id, trusted_key=None, subscribes=True, **options):
        self.told, self.commands = [], queue.Queue()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        scheme = "wss" if trusted_key else "ws"
        query = urlencode({"scheme": scheme, "port": port, "id": client_id, "topic": self.TOPIC, "options": json.dumps(options)})
        command = ["chromium", "--headless=new", f"--user-data-dir={folder}/chromium-{client_id}"]
        # Its sandbox needs what a container's root does not have, and the page is ours; /dev/shm may be small there too.
        command += ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        # It is to talk to nobody else.
        command += ["--no-proxy-server", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        if trusted_key:
            command += [f"--ignore-certificate-errors-spki-list={trusted_key}"]
        command += ["--no-first-run", "--disable-breakpad", f"http://127.0.0.1:{self.server.server_port}/?{query}"]
        self.chromium = Process(f"chromium-{client_id}", command, folder)
        if subscribes:
            self._until_subscribed(1)

    def events(self, kind=None):
        """What happened in the tab so far, before reloads too, or only the events of one kind."""
        return [event for event in list(self.told) if kind in (None, event["event"])]

    def say(self, command):
        self.commands.put(command)

    def reload(self):
        """Reloads the page as its user would, and waits until it is subscribed anew; whether its session was there."""
        subscribed = len(self.events("subscribed"))
        self.say("reload")
        self._until_subscribed(subscribed + 1)
        return self.events("connect")[-1]["sessionPresent"]

    def close(self):
        """Closes the browser and what served it."""
        self.chromium.stop()
        self.server.shutdown()
        self.server.server_close()

    def _until_subscribed(self, times):
        def subscribed():
            assert self.chromium.running(), f"chromium ended with {self.chromium.child.returncode}"
            return len(self.events("subscribed")) >= times

        wait_until(subscribed, f"a page that is subscribed (so far: {self.events()[-5:]})", START_SECONDS)

    def _handler(tab):
        files = {
            "/": ("text/html", HERE / "browser.html"),
            "/mqtt.js": ("text/javascript", Path(os.environ["NODE_PATH"]) / "mqtt" / "dist" / "mqtt.min.js"),
        }

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition("?")[0]
                if path == "/command":
                    try:
                        return self.answer(200, "text/plain", tab.commands.get(timeout=COMMAND_SECONDS).encode())
                    except queue.Empty:
                        return self.answer(200, "text/plain", b"")
                if path not in files:
                    return self.answer(404, "text/plain", b"nothing here")
                kind, file = files[path]
                self.answer(200, kind, file.read_bytes())

            def do_POST(self):
                tab.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.answer(200, "text/plain", b"")

            def answer(self, status, kind, body):
                # A page that is being reloaded does not wait for its answer.
                with contextlib.suppress(ConnectionError):
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(body)))
                    self.send_header("Cache-Control", "no-store")
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler
