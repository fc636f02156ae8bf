"""Drives a headless Chromium over a pipe, by its own protocol: opens a page, takes pictures of it, hears its errors."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find():
    """The path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """One page of a browser; `with Chromium() as page:`.

    `errors` are what the page said on its console, and its exceptions; `requests` the addresses that it asked for.
    """

    def __init__(self, path=None, seconds=60):
        self.errors, self.requests = [], []
        self._seconds, self._number, self._buffer, self._events = seconds, 0, b"", []
        self._home = tempfile.mkdtemp(prefix="jtrain-chromium-")
        theirs, self._to = os.pipe()
        self._from, theirs_too = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={self._home}"]
        # The protocol is on the file descriptors 3 and 4. They are moved by a shell: there is no fork of this process.
        script = f'exec 3<&{theirs} 4>&{theirs_too}; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", path or find(), *flags],
            pass_fds=(theirs, theirs_too), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=os.environ | {"HOME": self._home},
        )  # fmt: skip
        os.close(theirs)
        os.close(theirs_too)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = None
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(Exception):
            self._session = None
            self._call("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)
        shutil.rmtree(self._home, ignore_errors=True)

    def open(self, path, *, width=1280, height=900, dark=False, scale=1, media=""):
        """Opens a file in a window of a size, in light or dark colours."""
        phone = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", features=scheme, media=media)
        self._events.clear()
        self._call("Page.navigate", url=path.absolute().as_uri())
        self._wait("Page.loadEventFired")

    def run(self, script):
        """The value of an expression of JavaScript."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def move(self, x, y):
        """Moves the pointer to a place in the window."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, path, *, whole=True):
        """Saves a picture of the whole page, or of the window, as PNG."""
        found = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **(self._clip(whole)))
        path.write_bytes(base64.b64decode(found["data"]))

    def print(self, path):
        """Saves the page as it is printed, as PDF."""
        path.write_bytes(base64.b64decode(self._call("Page.printToPDF", printBackground=True)["data"]))

    def _clip(self, whole):
        if not whole:
            return {}
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def _call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        number, end = self._number, time.monotonic() + self._seconds
        while True:
            answer = self._read(end)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _wait(self, name):
        end = time.monotonic() + self._seconds
        while not any(event["method"] == name for event in self._events):
            self._read(end)

    def _read(self, end):
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser did not answer in time"
            got = os.read(self._from, 1 << 20)
            assert got, "the browser has ended"
            self._buffer += got
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        if "method" in message:
            self._hear(message)
        return message

    def _hear(self, event):
        name, params = event["method"], event.get("params", {})
        self._events.append(event)
        if name == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"])
        elif name == "Runtime.consoleAPICalled":
            self.errors.append(params)
        elif name == "Log.entryAdded":
            self.errors.append(params["entry"])
        elif name == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
