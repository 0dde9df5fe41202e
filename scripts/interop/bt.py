#!/usr/bin/python3
"""The parts of scripts/interop.sh that need a BitTorrent library.

    bt.py make FILE TORRENT TRACKER            makes a random FILE and its TORRENT
    bt.py peer TORRENT DIR LISTEN              runs libtorrent as a peer, until killed
    bt.py seeds TORRENT SCRAPE COUNT SECONDS   waits until the tracker counts seeds
"""

import os
import sys
import time
import urllib.parse
import urllib.request

import libtorrent as lt

SIZE = 4 << 20
PIECE = 64 << 10


def make(path, torrent, tracker):
    with open(path, "wb") as file:
        file.write(os.urandom(SIZE))
    files = lt.file_storage()
    lt.add_files(files, path)
    new = lt.create_torrent(files, PIECE, lt.create_torrent.v1_only)
    new.add_tracker(tracker)
    new.set_priv(True)  # BEP 27: only peers from the tracker
    lt.set_piece_hashes(new, os.path.dirname(path))
    with open(torrent, "wb") as file:
        file.write(lt.bencode(new.generate()))


def peer(torrent, directory, listen):
    alerts = lt.alert.category_t
    session = lt.session({
        "listen_interfaces": listen,
        "allow_multiple_connections_per_ip": True,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_natpmp": False,
        "enable_upnp": False,
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        "alert_mask": alerts.error_notification
        | alerts.status_notification
        | alerts.tracker_notification
        | alerts.connect_notification,
    })
    session.add_torrent({"ti": lt.torrent_info(torrent), "save_path": directory})
    while True:
        session.wait_for_alert(1000)
        for alert in session.pop_alerts():
            print(alert.what(), alert.message(), flush=True)


def seeds(torrent, scrape, count, seconds):
    info_hash = lt.torrent_info(torrent).info_hash().to_bytes()
    url = f"{scrape}?info_hash={urllib.parse.quote(info_hash, safe='')}"
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        with urllib.request.urlopen(url, timeout=5) as reply:
            files = lt.bdecode(reply.read()).get(b"files", {})
        if files.get(info_hash, {}).get(b"complete", 0) >= int(count):
            return
        time.sleep(0.1)
    sys.exit(f"fewer than {count} seeds after {seconds} s: {url}")


if __name__ == "__main__":
    {"make": make, "peer": peer, "seeds": seeds}[sys.argv[1]](*sys.argv[2:])
