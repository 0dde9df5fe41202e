"""Owns a headless chromium, controlled by the DevTools protocol: its pages, their requests and their errors."""

import base64
import json
import subprocess
import time
import urllib.request
from pathlib import Path

import websocket  # Debian's python3-websocket

DEADLINE_S = 40
ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--mute-audio",
    "--remote-debugging-port=0",
]


def eventually(what, condition):
    """Waits until the condition returns a true value, and returns that value."""
    end = time.monotonic() + DEADLINE_S
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"{what}: still {value!r} after {DEADLINE_S} s"
        time.sleep(0.1)


class Browser:
    """A chromium with a new profile."""

    def __init__(self, scratch):
        profile = Path(scratch) / "chromium"
        log = (Path(scratch) / "chromium.log").open("wb")
        arguments = ["chromium", *ARGUMENTS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(arguments, stdout=log, stderr=log)
        port_file = profile / "DevToolsActivePort"
        eventually("chromium listens", lambda: port_file.exists() and port_file.read_text().strip())
        self.port = port_file.read_text().split()[0]

    def open(self, url, before=""):
        """Opens a page. The script `before` runs before the scripts of the page."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request) as response:
            return Page(json.load(response)["webSocketDebuggerUrl"], url, before)

    def close(self):
        self.process.terminate()
        self.process.wait(10)


class Page:
    """A page, with its requests and errors."""

    def __init__(self, debugger, url, before):
        self.socket = websocket.create_connection(debugger, suppress_origin=True, timeout=DEADLINE_S)
        self.last = 0
        self.requests = []  # URLs
        self.errors = []  # of scripts and policies, without network errors
        for domain in ["Page", "Runtime", "Network", "Log"]:
            self.call(f"{domain}.enable")
        if before:
            self.call("Page.addScriptToEvaluateOnNewDocument", source=before)
        self.call("Page.navigate", url=url)
        eventually("the page is loaded", lambda: self.run("[location.href, document.readyState]") == [url, "complete"])

    def call(self, method, **parameters):
        self.last += 1
        self.socket.send(json.dumps({"id": self.last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.last:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self.note(message.get("method"), message.get("params", {}))

    def note(self, event, what):
        if event == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(what["exceptionDetails"])
        elif event == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            self.errors.append(what["args"])
        elif event == "Log.entryAdded" and what["entry"]["source"] != "network":
            if what["entry"]["level"] in ("error", "warning"):
                self.errors.append(what["entry"])

    def run(self, script):
        """Returns the value of an expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, f"{script}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def text(self, selector):
        return self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def until(self, script):
        """Waits until an expression is true."""
        return eventually(script, lambda: self.run(f"Boolean({script})"))

    def click(self, selector):
        """Clicks on an element with the mouse."""
        script = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{script}.scrollIntoView({{block: 'center'}})")
        box = self.run(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({script}.getBoundingClientRect())")
        self.point(*box)
        for kind in ["mousePressed", "mouseReleased"]:
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def point(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def resize(self, width, height, scale=1, mobile=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile)

    def prefer(self, scheme):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, file):
        """Writes a screenshot of the whole page to a file."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        Path(file).write_bytes(base64.b64decode(picture["data"]))
