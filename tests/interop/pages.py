"""Headless Chromium on the status page, driven by playwright: `pages.js` is the other side."""

import json
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


class Browser:
    """A browser; it opens pages."""

    def __init__(self, folder):
        log = open(Path(folder) / "pages.log", "ab")
        command = ["setpriv", "--pdeathsig", "TERM", "node", HERE / "pages.js", shutil.which("chromium")]
        environment = {**os.environ, "NODE_PATH": os.environ["PLAYWRIGHT_PATH"]}
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=folder)
        log.close()
        assert self.child.stdout.readline().strip() == "ready", "chromium does not start: see pages.log"

    def open(self, url, **options):
        return Page(self, self.do(None, "open", url=url, **options))

    def do(self, page, what, **given):
        self.child.stdin.write(json.dumps({"page": page, "what": what, "given": given}) + "\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        assert line, "the browser has ended: see pages.log"
        answer = json.loads(line)
        assert "error" not in answer, f"{what} {given}: {answer['error']}"
        return answer["answer"]

    def close(self):
        self.child.stdin.close()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class Page:
    """A page that is open. Every method is an action of `pages.js`."""

    def __init__(self, browser, number):
        self.browser, self.number = browser, number

    def beside(self, url):
        """Another tab of the same window."""
        return Page(self.browser, self.browser.do(self.number, "beside", url=url))

    def __getattr__(self, what):
        return lambda **given: self.browser.do(self.number, what, **given)
