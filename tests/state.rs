//! Owns the tests of the state directory: what a tracker finds again that ended in order, was killed, or whose files
//! were damaged meanwhile.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use gyre::config::{Config, Steering};
use gyre::types::{Event, Family};
use support::{DEADLINE, Tracker, UdpClient, announcement, config, eventually, info_hash};

const SWARMS: u64 = 40;

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gyre-state-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn config(&self, workers: usize) -> Config {
        Config {
            state_dir: Some(self.0.clone()),
            snapshot_interval_secs: 0,
            steering: Steering::None,
            ..config(workers)
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn udp(tracker: &Tracker) -> UdpClient {
    UdpClient::connected(tracker.udp(Family::V4))
}

/// Has a seeder and a leecher announce in each swarm, and one of them complete.
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
fn what_was_saved_is_there_again_for_any_number_of_workers() {
    let directory = Directory::new("workers");
    for workers in [3, 2, 1, 4] {
        let tracker = Tracker::start(&directory.config(workers));
        if workers == 3 {
            fill(&tracker);
        }
        is_filled(&tracker);
        tracker.save(DEADLINE).unwrap();
        let files = fs::read_dir(directory.0.join("snapshot")).unwrap().count();
        assert_eq!(files, workers, "no file of a worker that is no more");
    }
    assert!(!directory.0.join("snapshot.new").exists() && !directory.0.join("damaged").exists());
}

#[test]
fn snapshots_are_written_at_an_interval() {
    let directory = Directory::new("interval");
    let tracker = Tracker::start(&Config { snapshot_interval_secs: 1, ..directory.config(2) });
    fill(&tracker);
    let length = || -> u64 {
        let files = fs::read_dir(directory.0.join("snapshot")).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
    };
    eventually("a snapshot of all", || length() >= SWARMS * (20 + 2 * 8));
    drop(tracker); // without a last one
    is_filled(&Tracker::start(&directory.config(2)));
}

#[test]
fn the_secret_is_kept_for_nobody_else_to_read() {
    let directory = Directory::new("secret");
    let tracker = Tracker::start(&directory.config(1));
    let id = udp(&tracker).connection_id;
    drop(tracker);
    let secret = directory.0.join("secret");
    assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    let tracker = Tracker::start(&directory.config(1));
    let mut client = UdpClient::new(tracker.udp(Family::V4));
    client.connection_id = id;
    assert_eq!(client.announce(announcement(info_hash(1), 1)).leechers, 1, "an id from before the restart");
    drop(tracker);
    fs::write(&secret, "open sesame").unwrap();
    let error = gyre::Tracker::builder().config(directory.config(1)).listen().err().unwrap().to_string();
    assert!(error.contains("secret: it is not 32 hexadecimal digits"), "{error}");
}

#[test]
fn a_damaged_file_is_set_aside_and_the_rest_is_used() {
    let directory = Directory::new("damaged");
    let tracker = Tracker::start(&directory.config(2));
    fill(&tracker);
    tracker.save(DEADLINE).unwrap();
    drop(tracker);
    let snapshot = directory.0.join("snapshot");
    let victim = snapshot.join("worker-0");
    let whole = fs::read(&victim).unwrap();
    for (name, damage) in [
        ("cut", whole[..whole.len() - 1].to_vec()),
        ("text", b"this is no snapshot at all".to_vec()),
        ("flipped", whole.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 40)).collect()),
        ("empty", Vec::new()),
    ] {
        fs::write(&victim, &damage).unwrap();
        let tracker = Tracker::start(&directory.config(3));
        let mut client = udp(&tracker);
        let there: Vec<_> =
            (0..SWARMS).filter(|number| client.scrape(&[info_hash(*number)])[0].seeders == 1).collect();
        assert!(!there.is_empty(), "{name}: the other file is good");
        assert!(name == "cut" || there.len() < SWARMS as usize, "{name}");
        drop(tracker);
        let aside: Vec<_> = fs::read_dir(directory.0.join("damaged")).unwrap().flatten().collect();
        assert_eq!(aside.len(), 1, "{name}");
        assert_eq!(fs::read(aside[0].path()).unwrap(), damage, "{name}");
        fs::remove_file(aside[0].path()).unwrap();
        assert!(!victim.exists());
    }
}

#[test]
fn a_directory_has_one_tracker_at_a_time() {
    let directory = Directory::new("lock");
    let tracker = Tracker::start(&directory.config(1));
    let error = gyre::Tracker::builder().config(directory.config(1)).listen().err().unwrap().to_string();
    assert!(
        error.contains(directory.0.to_str().unwrap()) && error.contains("another tracker has it"),
        "{error}"
    );
    drop(tracker);
    // Its thread lets go of it a moment after the tracker's end.
    eventually("a directory that is free", || {
        gyre::Tracker::builder().config(directory.config(1)).listen().is_ok()
    });
    let file = directory.0.join("lock");
    let config = Config { state_dir: Some(file), ..directory.config(1) };
    assert!(gyre::Tracker::builder().config(config).listen().err().unwrap().to_string().contains("lock"));
}

#[test]
fn a_snapshot_that_cannot_be_written_says_so_and_the_last_one_stays() {
    let directory = Directory::new("full");
    let tracker = Tracker::start(&directory.config(2));
    fill(&tracker);
    tracker.save(DEADLINE).unwrap();
    // Where the next one would be written there is a file that nobody can take away: a mount point would be as bad.
    let blocked = directory.0.join("snapshot.new");
    fs::write(&blocked, "").unwrap();
    assert!(tracker.save(DEADLINE).is_err());
    fs::remove_file(&blocked).unwrap();
    tracker.save(DEADLINE).unwrap();
    drop(tracker);
    is_filled(&Tracker::start(&directory.config(2)));
}
