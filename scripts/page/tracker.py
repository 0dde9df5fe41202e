"""Owns a gyre under some load for the page to show: clients of all kinds, invalid requests, lists."""

import os
import re
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from pathlib import Path

from browser import eventually

LOAD_S = "300"  # in case the load is not stopped before
ADDRESSES = {"udp": "127.0.0.1:0", "http": "127.0.0.1:0", "admin": "127.0.0.1:0"}
# Number of announces of each client. The last one tries to inject markup.
CLIENTS = {
    "-qB5040-": 24, "-qB4650-": 9, "-qB4390-": 3, "-TR4060-": 14, "-TR2940-": 5, "-UT355W-": 9, "-DE211s-": 6,
    "-LT20A0-": 3, "-lt0D80-": 4, "-BI3500-": 3, "A2-1-37-": 8, "TIX0284-": 2, "-BC0199-": 2, "-WW0213-": 2,
    "-XX1234-": 1, "<b>x</b>": 8,
}


class Tracker:
    """The program, which can be stopped and started again at the same addresses."""

    def __init__(self, binaries, scratch):
        self.binaries = Path(binaries)
        self.scratch = Path(scratch)
        self.addresses = dict(ADDRESSES)
        self.process = None
        self.loads = []
        self.ended = threading.Event()
        self.announcing = threading.Thread(target=self.announce_again)
        (self.scratch / "denied-hashes").write_text("".join(f"{number:040x}\n" for number in range(1, 200)))
        (self.scratch / "denied-clients").write_text("-XL\n-SD\n")
        self.start()

    def start(self):
        files = [f"--deny-{kind}={self.scratch}/denied-{kind}" for kind in ["hashes", "clients"]]
        options = [f"--{name}={address}" for name, address in self.addresses.items()]
        log = self.scratch / "gyre.log"
        kept = [f"--state-dir={self.scratch}/state", "--snapshot-interval=10"]
        command = [self.binaries / "gyre", "serve", "--allow-root", *options, *files, *kept]
        self.process = subprocess.Popen(command, stderr=log.open("w"))
        ready = eventually("gyre is ready", lambda: re.search("ready: .*", log.read_text()))
        for name in self.addresses:
            self.addresses[name] = re.search(rf"\b{name} (\S+)", ready[0])[1]

    def stop(self):
        self.process.terminate()
        assert self.process.wait(60) == 0, (self.scratch / "gyre.log").read_text()

    @property
    def url(self):
        return f"http://{self.addresses['admin']}/"

    def load(self):
        """Starts the announces and the load generators."""
        self.announcing.start()
        core = str(max(os.sched_getaffinity(0)))
        for protocol, options in {
            "udp": ["--rate=4000", "--mix=connect:90,announce:8,scrape:2", "--fill", "--peers=20000", "--torrents=2000"],
            "http": ["--rate=300", "--mix=announce:10,scrape:90", "--connections=24", "--peers=2000", "--torrents=2000"],
        }.items():
            target = ["--target", self.addresses[protocol], "--duration", LOAD_S, "--warmup=0", "--cores", core, "--quiet"]
            command = [self.binaries / "gyre-load", protocol, *target, *options]
            self.loads.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def announce_again(self):
        """Repeats the announces, since the tracker forgets client names within minutes, and at a restart."""
        while not self.ended.wait(0.5):
            try:
                self.announce()
            except OSError:
                pass  # the tracker is restarting

    def announce(self):
        """Sends the announces of all clients, one for a denied torrent, and some invalid datagrams."""
        for client, times in CLIENTS.items():
            for number in range(times):
                self.announce_one(client, f"{number % 7:020d}", number)
        self.announce_one("-TR4060-", "\0" * 19 + "\1", 0)
        host, port = self.addresses["udp"].rsplit(":", 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for junk in [b"junk", bytes(16), b"\xff" * 16, b"\xff" * 100]:
                sender.sendto(junk, (host, int(port)))

    def announce_one(self, client, info_hash, number):
        query = {"info_hash": info_hash, "peer_id": f"{client}{number:012d}", "port": 1000 + number, "left": number % 2}
        url = f"http://{self.addresses['http']}/announce?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url) as response:
            response.read()

    def close(self):
        self.ended.set()
        if self.announcing.is_alive():
            self.announcing.join()
        for load in self.loads:
            load.terminate()
            load.wait(10)
        if self.process.poll() is None:
            self.stop()
