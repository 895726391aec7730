"""Chromium without a window, over the pipe of its devtools protocol: no package, no port.

with Browser() as browser:
    page = browser.open(path)           # waits until it is loaded
    page.evaluate("document.title"); page.screenshot("a.png"); page.faults; page.requests
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
    # what it would ask of its maker's servers at every start
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE = 60.0
START = """import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for end, place in zip(ends, (3, 4)):  # where the protocol is spoken: to it, and from it
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])"""


def chromium() -> str | None:
    """Where it is, if it is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    def __enter__(self) -> Browser:
        self.home = tempfile.TemporaryDirectory(prefix="browser")
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        start = [sys.executable, "-c", START, str(theirs_in), str(theirs_out)]
        command = [*start, chromium(), *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={self.home.name}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([*command, "about:blank"], pass_fds=(theirs_in, theirs_out), **quiet)
        os.close(theirs_in)
        os.close(theirs_out)
        self.out, self.into = ours_out, ours_in
        self.buffer, self.number, self.events = b"", 0, []
        return self

    def __exit__(self, *error: Any) -> None:
        self.send("Browser.close")
        self.process.wait(PATIENCE)
        os.close(self.out)
        os.close(self.into)
        shutil.rmtree(self.home.name, ignore_errors=True)  # its helpers may still be writing
        self.home.cleanup()

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The answer to a command; what is told meanwhile goes to `events`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        os.write(self.out, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while True:
            found = self.receive(until)
            if found.get("id") == self.number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']['message']}")
                return found["result"]
            self.events.append(found)

    def receive(self, until: float) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            if not select.select([self.into], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError("chromium does not answer")
            read = os.read(self.into, 1 << 20)
            if not read:
                raise RuntimeError("chromium has ended")
            self.buffer += read
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def open(self, file: Path, width: int = 1280, height: int = 900, dark: bool = False) -> Page:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        phone = width < 600
        page.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        page.send(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        begun = time.monotonic()
        page.send("Page.navigate", url=file.resolve().as_uri())
        page.wait("Page.loadEventFired")
        page.seconds = time.monotonic() - begun
        return page


class Page:
    seconds = 0.0
    "From the command to go there to its load event."

    def __init__(self, browser: Browser, session: str):
        self.browser, self.session = browser, session

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.send(method, self.session, **parameters)

    def told(self, method: str) -> list[dict[str, Any]]:
        mine = [event for event in self.browser.events if event.get("sessionId") == self.session]
        return [event["params"] for event in mine if event.get("method") == method]

    def wait(self, method: str) -> None:
        until = time.monotonic() + PATIENCE
        while not self.told(method):
            self.browser.events.append(self.browser.receive(until))

    @property
    def requests(self) -> list[str]:
        """Every address that was asked for, but for the page's own and those of data that lies in it."""
        asked = [event["request"]["url"] for event in self.told("Network.requestWillBeSent")]
        return [url for url in asked[1:] if not url.startswith("data:")]

    @property
    def faults(self) -> list[str]:
        """What the console calls an error or a warning, and what was thrown."""
        logged = [event["entry"] for event in self.told("Log.entryAdded")]
        said = [f"{entry['level']}: {entry['text']}" for entry in logged if entry["level"] in ("error", "warning")]
        thrown = [event["exceptionDetails"] for event in self.told("Runtime.exceptionThrown")]
        said += [one.get("exception", {}).get("description") or one["text"] for one in thrown]
        called = [event for event in self.told("Runtime.consoleAPICalled") if event["type"] in ("error", "warning")]
        return said + [str(event["args"]) for event in called]

    def evaluate(self, expression: str) -> Any:
        """Its value, awaited where it is a promise."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def settle(self) -> None:
        """Waits until every chart is drawn and every picture that is there is decoded."""
        self.evaluate(
            """new Promise(async (done) => {
              while ([...view.charts].some((chart) => !chart.drawn && chart.lines.some((line) => line.raw.x.length)))
                await new Promise((later) => setTimeout(later, 20));
              for (const image of document.images) image.loading = "eager";
              await Promise.all([...document.images].map((image) => image.decode().catch(() => null)));
              requestAnimationFrame(() => requestAnimationFrame(done));
            })"""
        )

    def screenshot(self, path: Path | str, full: bool = True) -> None:
        made = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=full, **self._clip(full))
        Path(path).write_bytes(base64.b64decode(made["data"]))

    def _clip(self, full: bool) -> dict[str, Any]:
        if not full:
            return {}
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def pdf(self, path: Path | str) -> None:
        made = self.send("Page.printToPDF", printBackground=False)
        Path(path).write_bytes(base64.b64decode(made["data"]))
