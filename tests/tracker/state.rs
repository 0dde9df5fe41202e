//! Owns the tests of the state directory: state is restored after a regular end, a kill, and with damaged files.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::web::TempDir;
use crate::support::{DEADLINE, Tracker, UdpClient, announcement, config, eventually, info_hash, udp};
use gyre::config::{Config, Steering};
use gyre::types::{Event, Family};

const SWARMS: u64 = 40;

/// Returns a configuration with this state directory and snapshots only on request.
fn with_state(directory: &TempDir, workers: usize) -> Config {
    Config {
        state_dir: Some(directory.path().to_owned()),
        snapshot_interval_secs: 0,
        steering: Steering::None,
        ..config(workers)
    }
}

/// Announces a seeder that completes and a leecher in each swarm.
fn fill(tracker: &Tracker) {
    let mut client = udp(tracker);
    for number in 0..SWARMS {
        let mut announce = announcement(info_hash(number), 1);
        (announce.left, announce.event) = (0, Event::Completed);
        client.announce(announce);
        client.announce(announcement(info_hash(number), 2));
    }
}

#[track_caller]
fn is_filled(tracker: &Tracker) {
    let mut client = udp(tracker);
    for number in 0..SWARMS {
        let counts = client.scrape(&[info_hash(number)])[0];
        assert_eq!((counts.seeders, counts.leechers, counts.downloaded), (1, 1, 1), "{number}");
    }
    assert_eq!(client.announce(announcement(info_hash(7), 2)).ports(), [1]);
}

#[test]
fn a_snapshot_is_restored_with_any_number_of_workers() {
    let directory = TempDir::new();
    for workers in [3, 2, 1, 4] {
        let tracker = Tracker::start(&with_state(&directory, workers));
        if workers == 3 {
            fill(&tracker);
        }
        is_filled(&tracker);
        tracker.save(DEADLINE).unwrap();
        let files = fs::read_dir(directory.path().join("snapshot")).unwrap().count();
        assert_eq!(files, workers, "no file of an earlier worker is left");
    }
    assert!(!directory.path().join("snapshot.new").exists() && !directory.path().join("damaged").exists());
}

/// A tracker that was killed after a takeover leaves two files: a snapshot, and the late changes of its predecessor.
#[test]
fn a_snapshot_and_late_changes_are_merged_in_any_order() {
    let directory = TempDir::new();
    let [snapshot, late, aside] = ["snapshot", "late", "aside"].map(|name| directory.path().join(name));
    let tracker = Tracker::start(&with_state(&directory, 1));
    let mut client = udp(&tracker);
    for (left, event) in [(1, Event::Started), (0, Event::Completed)] {
        for number in 0..SWARMS {
            let mut announce = announcement(info_hash(number), 1);
            (announce.left, announce.event) = (left, event);
            client.announce(announce);
        }
        tracker.save(DEADLINE).unwrap();
        if left == 1 {
            fs::rename(&snapshot, &aside).unwrap(); // each peer as a leecher
        }
    }
    drop(tracker);
    fs::rename(&aside, &late).unwrap();
    for _ in 0..2 {
        let tracker = Tracker::start(&with_state(&directory, 1));
        let mut client = udp(&tracker);
        for number in 0..SWARMS {
            let counts = client.scrape(&[info_hash(number)])[0];
            assert_eq!((counts.seeders, counts.leechers), (1, 0), "{number}");
        }
        drop(tracker);
        // Again with the two exchanged.
        fs::rename(&snapshot, &aside).unwrap();
        fs::rename(&late, &snapshot).unwrap();
        fs::rename(&aside, &late).unwrap();
    }
}

#[test]
fn snapshots_are_written_at_an_interval() {
    let directory = TempDir::new();
    let tracker = Tracker::start(&Config { snapshot_interval_secs: 1, ..with_state(&directory, 2) });
    fill(&tracker);
    let length = || -> u64 {
        let files = fs::read_dir(directory.path().join("snapshot")).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
    };
    eventually("all swarms are in the snapshot", || length() >= SWARMS * (20 + 2 * 8));
    drop(tracker); // without a final snapshot
    is_filled(&Tracker::start(&with_state(&directory, 2)));
}

#[test]
fn the_secret_is_kept_and_readable_only_by_its_owner() {
    let directory = TempDir::new();
    let tracker = Tracker::start(&with_state(&directory, 1));
    let id = udp(&tracker).connection_id;
    drop(tracker);
    let secret = directory.path().join("secret");
    assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    let tracker = Tracker::start(&with_state(&directory, 1));
    let mut client = UdpClient::new(tracker.udp(Family::V4));
    client.connection_id = id;
    assert_eq!(client.announce(announcement(info_hash(1), 1)).leechers, 1, "an id from before the restart");
    drop(tracker);
    fs::write(&secret, "open sesame").unwrap();
    let error =
        gyre::Tracker::builder().config(with_state(&directory, 1)).listen().err().unwrap().to_string();
    assert!(error.contains("secret: not 32 hexadecimal digits"), "{error}");
}

#[test]
fn a_damaged_file_is_set_aside_and_the_rest_is_used() {
    let directory = TempDir::new();
    let tracker = Tracker::start(&with_state(&directory, 2));
    fill(&tracker);
    tracker.save(DEADLINE).unwrap();
    drop(tracker);
    let snapshot = directory.path().join("snapshot");
    let victim = snapshot.join("worker-0");
    let whole = fs::read(&victim).unwrap();
    for (name, damage) in [
        ("cut", whole[..whole.len() - 1].to_vec()),
        ("text", b"this is no snapshot at all".to_vec()),
        ("flipped", whole.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 40)).collect()),
        ("empty", Vec::new()),
    ] {
        fs::write(&victim, &damage).unwrap();
        let tracker = Tracker::start(&with_state(&directory, 3));
        let mut client = udp(&tracker);
        let there: Vec<_> =
            (0..SWARMS).filter(|number| client.scrape(&[info_hash(*number)])[0].seeders == 1).collect();
        assert!(!there.is_empty(), "{name}: the other file is intact");
        assert!(name == "cut" || there.len() < SWARMS as usize, "{name}");
        drop(tracker);
        let aside: Vec<_> = fs::read_dir(directory.path().join("damaged")).unwrap().flatten().collect();
        assert_eq!(aside.len(), 1, "{name}");
        assert_eq!(fs::read(aside[0].path()).unwrap(), damage, "{name}");
        fs::remove_file(aside[0].path()).unwrap();
        assert!(!victim.exists());
    }
}

#[test]
fn a_directory_has_one_tracker_at_a_time() {
    let directory = TempDir::new();
    let tracker = Tracker::start(&with_state(&directory, 1));
    let error =
        gyre::Tracker::builder().config(with_state(&directory, 1)).listen().err().unwrap().to_string();
    assert!(
        error.contains(directory.path().to_str().unwrap()) && error.contains("another tracker is using it"),
        "{error}"
    );
    drop(tracker);
    // The tracker's thread releases the directory a moment after the tracker's end.
    eventually("the directory is free", || {
        gyre::Tracker::builder().config(with_state(&directory, 1)).listen().is_ok()
    });
    let file = directory.path().join("lock");
    let config = Config { state_dir: Some(file), ..with_state(&directory, 1) };
    assert!(gyre::Tracker::builder().config(config).listen().err().unwrap().to_string().contains("lock"));
}

#[test]
fn a_snapshot_that_cannot_be_written_is_an_error_and_the_last_one_stays() {
    let directory = TempDir::new();
    let tracker = Tracker::start(&with_state(&directory, 2));
    fill(&tracker);
    tracker.save(DEADLINE).unwrap();
    // A file at the path of the next snapshot blocks it, as a mount point would.
    let blocked = directory.path().join("snapshot.new");
    fs::write(&blocked, "").unwrap();
    assert!(tracker.save(DEADLINE).is_err());
    fs::remove_file(&blocked).unwrap();
    tracker.save(DEADLINE).unwrap();
    drop(tracker);
    is_filled(&Tracker::start(&with_state(&directory, 2)));
}
