#!/usr/bin/env python3
"""Abuses a tracker by HTTP in one way, with many connections, beside a load of well-behaved clients.

Used by scripts/abuse.sh. Keeps the connections open, replaces each that the tracker closes, and starts the load when all are
open. Prints one line of the table: the tracker's memory before, at its maximum and after; the fate of the connections; the
results of the well-behaved clients. Ends with the load, or after a deadline.
"""

import argparse
import collections
import errno
import itertools
import json
import os
import select
import socket
import subprocess
import sys
import time
import urllib.request

HASH = "%aa" * 20
TICKS_PER_SECOND = 20
OPENED_PER_TICK = 250  # few enough for the listener's backlog
DEADLINE_SECONDS = 120


def announce(port):
    return (
        f"GET /announce?info_hash={HASH}&peer_id=-GT0001-{port:012}&port={port}&left=1&compact=0&numwant=200 "
        "HTTP/1.1\r\nHost: t\r\n\r\n"
    ).encode()


def oversize():
    """Returns requests that exceed one limit each."""
    head = b"GET /announce HTTP/1.1\r\nHost: t\r\n"
    post = b"POST /announce HTTP/1.1\r\nHost: t\r\n"
    mebibyte = b"x" * (1 << 20)
    part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
    return [
        head + b"X: " + mebibyte,
        b"GET /announce?" + mebibyte,
        b"GET /announce?" + b"a=b&" * 1_900 + b" HTTP/1.1\r\nHost: t\r\n\r\n",
        b"GET /scrape?" + b"&".join([b"info_hash=aaaaaaaaaaaaaaaaaaaa"] * 260) + b" HTTP/1.1\r\nHost: t\r\n\r\n",
        head + b"".join(b"X-%d: y\r\n" % number for number in range(200)) + b"\r\n",
        post + b"Content-Length: 999999999999\r\n\r\n" + mebibyte,
        post + b"Content-Length: 16000\r\n\r\n" + mebibyte[:16_000],
        post + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff0\r\n" + mebibyte,
        post + b"Transfer-Encoding: chunked\r\n\r\n" + b"1;" + mebibyte,
        post + b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9999999\r\n\r\n" + part + mebibyte,
        b"\r\n" * (1 << 19),
        b"\x00" * (1 << 20),
    ]


class Kind:
    """The requests of its clients, and how they send and read."""

    def __init__(self, requests, reads=True, per_second=None, ends=False):
        self.requests = itertools.cycle(requests)
        self.reads = reads
        self.per_second = per_second  # bytes; None: as fast as possible
        self.ends = ends  # closes the connection when everything is sent and answered


KINDS = {
    "slow": lambda: Kind([announce(1) * 4], per_second=1),
    "silent": lambda: Kind([b""]),
    "unread": lambda: Kind([announce(1) * 2_000], reads=False),
    "page": lambda: Kind([b"GET / HTTP/1.1\r\nHost: t\r\n\r\n" * 2_000], reads=False),
    "pipeline": lambda: Kind([announce(1).replace(b"numwant=200", b"numwant=5") * 100_000]),
    "oversize": lambda: Kind(oversize(), ends=True),
    "hoard": lambda: Kind([b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n"]),
}


class Client:
    def __init__(self, number, kind, target):
        self.socket = socket.socket()
        self.socket.setblocking(False)
        if not kind.reads:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        # Many local addresses, so that ports don't run out.
        self.socket.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        self.socket.bind((f"127.1.{number // 250 % 250}.{number % 250 + 1}", 0))
        self.left = memoryview(next(kind.requests))
        self.answered = False
        self.socket.connect_ex(target)


class Abuse:
    def __init__(self, kind, connections, target):
        self.kind, self.connections, self.target = kind, connections, target
        self.epoll = select.epoll()
        self.clients = {}
        self.opened = self.read_bytes = 0
        self.statuses = collections.Counter()

    def open(self):
        for _ in range(min(OPENED_PER_TICK, self.connections - len(self.clients))):
            client = Client(self.opened, self.kind, self.target)
            self.opened += 1
            self.clients[client.socket.fileno()] = client
            wanted = select.EPOLLRDHUP | (select.EPOLLIN if self.kind.reads else 0)
            writes = client.left and not self.kind.per_second
            self.epoll.register(client.socket, wanted | (select.EPOLLOUT if writes else 0))

    def close(self, number):
        self.clients.pop(number).socket.close()

    def turn(self, until):
        """Serves the clients until a time."""
        while (left := until - time.monotonic()) > 0:
            for number, events in self.epoll.poll(left, 1_000):
                client = self.clients[number]
                try:
                    if events & select.EPOLLIN and not self.read(client):
                        self.close(number)
                        continue
                    if events & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP) and not events & select.EPOLLIN:
                        self.close(number)
                        continue
                    if events & select.EPOLLOUT:
                        client.left = client.left[client.socket.send(client.left[: 1 << 18]) :]
                        if not client.left:
                            self.epoll.modify(number, select.EPOLLRDHUP | (select.EPOLLIN if self.kind.reads else 0))
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.EINTR):
                        self.close(number)

    def read(self, client):
        data = client.socket.recv(1 << 18)
        self.read_bytes += len(data)
        if data and not client.answered:
            client.answered = True
            self.statuses[data[9:12].decode(errors="replace")] += 1
        return bool(data) and not (self.kind.ends and not client.left)

    def trickle(self, tick):
        """Sends the next bytes of the clients that are due in this tick."""
        for number, client in list(self.clients.items())[tick % TICKS_PER_SECOND :: TICKS_PER_SECOND]:
            try:
                client.left = client.left[client.socket.send(client.left[: self.kind.per_second]) :]
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.ENOTCONN):
                    self.close(number)


def resident_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def tcp_kernel_kib():
    with open("/proc/net/sockstat", encoding="ascii") as stat:
        return next(int(line.split()[-1]) for line in stat if line.startswith("TCP:")) * 4


def fill(target):
    """Announces peers, so that replies are long."""
    with socket.create_connection(target) as client:
        for port in range(1, 201):
            client.sendall(announce(port))
        while not client.recv(1 << 18).endswith(b"ee"):
            pass


def metrics(admin):
    """The sums of what the tracker tells, by the name and the cause."""
    sums = collections.Counter()
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=10) as text:
        for line in text.read().decode().splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                cause = name.split('cause="')[1].split('"')[0] if 'cause="' in name else ""
                sums[name.split("{")[0] + (f":{cause}" if cause else "")] += float(value)
    return sums


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*KINDS, "none"])
    parser.add_argument("--target", required=True)
    parser.add_argument("--admin", required=True)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--figures", required=True, help="file with the results of the load")
    parser.add_argument("load", nargs="+", help="command of the load")
    options = parser.parse_args()
    os.nice(5)  # the well-behaved clients have priority on the shared cores
    tracker, admin = ((host, int(port)) for host, port in (at.rsplit(":", 1) for at in (options.target, options.admin)))
    fill(tracker)
    wanted = 0 if options.kind == "none" else options.connections
    kind = KINDS.get(options.kind, KINDS["silent"])()
    abuse = Abuse(kind, wanted, admin if options.kind == "page" else tracker)

    before = most = resident_kib(options.pid)
    kernel_before = kernel_most = tcp_kernel_kib()
    held = open_most = 0
    load, began = None, time.monotonic()
    for tick in itertools.count():
        abuse.open()
        if kind.per_second:
            abuse.trickle(tick)
        abuse.turn(began + (tick + 1) / TICKS_PER_SECOND)
        most, kernel_most = max(most, resident_kib(options.pid)), max(kernel_most, tcp_kernel_kib())
        held = max(held, len(abuse.clients))
        # The clients of the page use up the connections of the admin listener, so its metrics can't be read.
        if options.kind != "page" and tick % TICKS_PER_SECOND == 0:
            open_most = max(open_most, metrics(options.admin)["gyre_connections"])
        if load is None and (abuse.opened >= wanted or time.monotonic() - began > 10):
            load = subprocess.Popen((["nice", "-n", "-5"] if os.geteuid() == 0 else []) + options.load)
        if (load and load.poll() is not None) or time.monotonic() - began > DEADLINE_SECONDS:
            break
    if load and load.poll() is None:
        load.kill()
        sys.exit("the load did not end in time")
    statuses = dict(abuse.statuses)
    for number in list(abuse.clients):
        abuse.close(number)
    time.sleep(3)
    after, sums = resident_kib(options.pid), metrics(options.admin)
    if sums["gyre_connections"] > 1:
        sys.exit(f"{options.kind}: {sums['gyre_connections']:.0f} connections are still open")
    with open(options.figures, encoding="ascii") as file:
        good = json.load(file)
    mib = lambda kib: f"{kib / 1024:.0f}"
    lost = 100 * (good["lost"] + good["unsent"] + good["broken_connections"]) / max(good["requests"], 1)
    print(
        f"{options.kind:9} {abuse.opened:8} {held:6} {open_most:6.0f} "
        f"{mib(before):>6} {mib(most):>6} {mib(after):>6} {mib(kernel_most - kernel_before):>7} "
        f"{sums['gyre_evicted_connections_total']:8.0f} {sums['gyre_drops_total:connections']:7.0f} "
        f"{sums['gyre_drops_total:accept']:6.0f} {sums['gyre_bad_requests_total:http']:7.0f} "
        f"{good['latency']['p99_us'] / 1000:7.1f} {lost:6.2f} {good['refused']:7}  {statuses or ''}",
        flush=True,
    )


if __name__ == "__main__":
    main()
