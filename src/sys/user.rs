//! Owns the user of the process: looking up users, switching to one permanently, creating directories for one.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::Path;

use nix::unistd::{self, Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

/// A user and its only group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    uid: Uid,
    gid: Gid,
}

impl User {
    /// Finds a user by name or number. Without `group` it is the user's primary group in the user database.
    ///
    /// # Errors
    ///
    /// The user or group does not exist, or the database can't be read.
    pub fn find(user: &str, group: Option<&str>) -> io::Result<Self> {
        let missing = |what: String| io::Error::new(io::ErrorKind::NotFound, what);
        let number = user.parse().map(Uid::from_raw).ok();
        let found = match number {
            Some(uid) => unistd::User::from_uid(uid)?,
            None => unistd::User::from_name(user)?,
        };
        let uid = number.or(found.as_ref().map(|user| user.uid));
        let uid = uid.ok_or_else(|| missing("no such user".to_owned()))?;
        let gid = match (group, found) {
            (Some(group), _) => match group.parse() {
                Ok(gid) => Gid::from_raw(gid),
                Err(_) => {
                    let found = unistd::Group::from_name(group)?;
                    found.ok_or_else(|| missing(format!("no group `{group}`")))?.gid
                }
            },
            (None, Some(user)) => user.gid,
            (None, None) => {
                return Err(missing(format!("no user has this number; add a group: {uid}:GROUP")));
            }
        };
        Ok(Self { uid, gid })
    }

    /// Returns the effective user of the process.
    pub fn current() -> Self {
        Self { uid: unistd::geteuid(), gid: unistd::getegid() }
    }

    /// Returns whether this is root.
    pub fn is_root(&self) -> bool {
        self.uid.is_root()
    }

    /// Switches the process with all its threads to this user permanently, without supplementary groups.
    ///
    /// # Errors
    ///
    /// `EPERM` if the process is not root.
    pub fn become_for_good(&self) -> io::Result<()> {
        if *self != Self::current() || Self::current().is_root() {
            unistd::setgroups(&[self.gid])?;
            unistd::setresgid(self.gid, self.gid, self.gid)?;
            unistd::setresuid(self.uid, self.uid, self.uid)?;
        }
        Ok(())
    }
}

/// Drops all capabilities of this thread.
///
/// # Errors
///
/// As `capset(2)`, if the thread has any.
pub fn drop_capabilities() -> io::Result<()> {
    let CapabilitySets { effective, permitted, inheritable } = capabilities(None)?;
    if (effective | permitted | inheritable).is_empty() {
        return Ok(());
    }
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// Forbids programs that this thread starts to gain more rights than it has (`no_new_privs`).
///
/// # Errors
///
/// As `prctl(2)`.
pub fn forbid_new_rights() -> io::Result<()> {
    Ok(set_no_new_privs(true)?)
}

/// Creates a directory with access for its owner only, and its missing parents. An existing directory is left as it is.
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
            // `O_NOFOLLOW`: the path may have been replaced by a link.
            let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let directory: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
            fchown(&directory, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))
        }
        (Err(error), _) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
