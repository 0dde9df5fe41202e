//! Owns who the process is: users by their names, becoming one for good, and directories that are made for one.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::Path;

use nix::unistd::{self, Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

/// A user and the one group that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    uid: Uid,
    gid: Gid,
}

impl User {
    /// Finds a user by its name or number; without a group it is the one that the user has in the machine's records.
    ///
    /// # Errors
    ///
    /// There is no such user or group, or the records can't be read.
    pub fn find(user: &str, group: Option<&str>) -> io::Result<Self> {
        let missing = |what: String| io::Error::new(io::ErrorKind::NotFound, what);
        let number = user.parse().map(Uid::from_raw).ok();
        let found = match number {
            Some(uid) => unistd::User::from_uid(uid)?,
            None => unistd::User::from_name(user)?,
        };
        let uid = number.or(found.as_ref().map(|user| user.uid));
        let uid = uid.ok_or_else(|| missing("there is no such user".to_owned()))?;
        let gid = match (group, found) {
            (Some(group), _) => match group.parse() {
                Ok(gid) => Gid::from_raw(gid),
                Err(_) => {
                    let found = unistd::Group::from_name(group)?;
                    found.ok_or_else(|| missing(format!("there is no group `{group}`")))?.gid
                }
            },
            (None, Some(user)) => user.gid,
            (None, None) => {
                return Err(missing(format!("no user has this number: name a group too, {uid}:GROUP")));
            }
        };
        Ok(Self { uid, gid })
    }

    /// Who the process is at the moment.
    pub fn current() -> Self {
        Self { uid: unistd::geteuid(), gid: unistd::getegid() }
    }

    /// Whether it is root.
    pub fn is_root(&self) -> bool {
        self.uid.is_root()
    }

    /// Has the process, with all of its threads, be this user from now on: no other groups.
    ///
    /// # Errors
    ///
    /// `EPERM` if the process isn't root.
    pub fn become_for_good(&self) -> io::Result<()> {
        if *self != Self::current() || Self::current().is_root() {
            unistd::setgroups(&[self.gid])?;
            unistd::setresgid(self.gid, self.gid, self.gid)?;
            unistd::setresuid(self.uid, self.uid, self.uid)?;
        }
        Ok(())
    }
}

/// Gives up all capabilities that this thread has.
///
/// # Errors
///
/// As `capset(2)`, if there were any.
pub fn drop_capabilities() -> io::Result<()> {
    let CapabilitySets { effective, permitted, inheritable } = capabilities(None)?;
    if (effective | permitted | inheritable).is_empty() {
        return Ok(());
    }
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// Sees to it that no program which this thread starts gets more rights than it has itself.
///
/// # Errors
///
/// As `prctl(2)`.
pub fn forbid_new_rights() -> io::Result<()> {
    Ok(set_no_new_privs(true)?)
}

/// Makes a directory that is its owner's alone, if it isn't there, and what is missing above it.
///
/// # Errors
///
/// As `mkdir(2)`, `chown(2)`.
pub fn make_directory(path: &Path, owner: Option<User>) -> io::Result<()> {
    let make = || DirBuilder::new().mode(0o700).create(path);
    let made = match (make(), path.parent()) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).create(parent)?;
            make()
        }
        (made, _) => made,
    };
    match (made, owner) {
        (Ok(()), Some(owner)) => {
            // What was made, whatever the name stands for by now.
            let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let directory: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
            fchown(&directory, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))
        }
        (Err(error), _) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
