//! Owns the privileges that a process drops after binding its sockets and before serving: the rights of root, and
//! access to everything that a tracker does not need.

use std::net::SocketAddr;
use std::path::{Path, PathBuf, absolute};
use std::str::FromStr;
use std::{fmt, fs, io};

use super::Bound;
use crate::access::ListError;
use crate::engine::middleware::Middleware;
use crate::error::ServerError;
use crate::limits::{LOCKED_BYTES, WORKER_LOCKED_BYTES};
use crate::sys::{self, Enforced, User};

/// The users that a process of root switches to if it is told none: the first that exists.
const DEFAULT_USERS: [&str; 2] = ["gyre", "nobody"];

/// The privileges to drop; see [`Bound::restrict`].
///
/// ```no_run
/// use gyre::server::Privileges;
///
/// # fn main() -> Result<(), gyre::error::ServerError> {
/// let mut bound = gyre::Tracker::builder().http("0.0.0.0:80".parse().unwrap()).bind()?;
/// bound.restrict(&Privileges { user: Some("nobody".parse().unwrap()), ..Privileges::default() })?;
/// let tracker = bound.start()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    /// Switch to this user. `None`: keep the current user, but a process of root switches to the user `gyre` if
    /// there is one, otherwise to `nobody`, unless it may serve as root.
    pub user: Option<UserName>,
    /// Allow serving as root.
    pub allow_root: bool,
    /// Restrict the process with [`sys::confine_files`] and [`sys::deny_calls`] to the files of the configuration and
    /// to TCP connections to its own HTTP ports, without other programs. Disable it for a middleware or route that
    /// needs more.
    pub sandbox: bool,
    /// Other files that the process must be able to read.
    pub files: Vec<PathBuf>,
}

/// A user, and optionally a group other than the user's primary group. Names or numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserName {
    user: String,
    group: Option<String>,
}

impl FromStr for UserName {
    type Err = &'static str;

    /// Reads `NAME` or `NAME:GROUP`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if user.is_empty() || group.is_some_and(|group| group.is_empty() || group.contains(':')) {
            return Err("not NAME or NAME:GROUP");
        }
        Ok(Self { user: user.to_owned(), group: group.map(str::to_owned) })
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.user)?;
        self.group.iter().try_for_each(|group| write!(f, ":{group}"))
    }
}

impl<M: Middleware + Send> Bound<M> {
    /// Drops all privileges that serving does not need, for good, and logs the result. The file restrictions apply to
    /// this thread and to the threads that it starts, so it must be the only thread of the process. Restrictions that
    /// the kernel does not support are logged as warnings.
    ///
    /// # Errors
    ///
    /// The process would serve as root without permission, the user does not exist, or the process can't switch to it.
    pub fn restrict(&mut self, privileges: &Privileges) -> Result<(), ServerError> {
        let stays_root = privileges.allow_root || !User::current().is_root();
        let name = match &privileges.user {
            None if !stays_root => Some(default_user(|name| User::find(name, None).is_ok())?),
            named => named.clone(),
        };
        let user = name.as_ref().map(find).transpose()?;
        if user.unwrap_or_else(User::current).is_root() && !privileges.allow_root {
            return Err(ServerError::Root);
        }
        if let Some(path) = &self.config.state_dir {
            let source = |source| ServerError::State { path: path.clone(), source };
            sys::make_directory(path, user).map_err(source)?;
        }
        if let (Some(user), Some(name)) = (user, &name) {
            if privileges.user.is_none() {
                tracing::info!(
                    "started as root: running as user {name}; choose a user with --user, or keep root with --allow-root"
                );
            }
            sys::raise_locked_limit(LOCKED_BYTES + self.cores.len() as u64 * WORKER_LOCKED_BYTES);
            user.become_for_good().map_err(|source| failed(name, source))?;
        }
        let system = |what| move |source| ServerError::System { what, source };
        if !User::current().is_root() {
            sys::drop_capabilities().map_err(system("can't drop capabilities"))?;
        }
        sys::forbid_new_rights().map_err(system("can't set no_new_privs"))?;
        if privileges.sandbox {
            self.confine(&privileges.files);
        }
        Ok(())
    }

    /// Denies access to everything except these files, those of the configuration, and files that replace them.
    fn confine(&mut self, files: &[PathBuf]) {
        let files: Vec<_> = self.config.lists.all_files().chain(files).collect();
        let state: Vec<_> = self.config.state_dir.iter().filter_map(|path| absolute(path).ok()).collect();
        let named: Vec<_> = files.iter().map(|file| directory_of(file)).chain(state.clone()).collect();
        // The target of a link is read at its real place.
        let linked = files.iter().filter_map(|file| Some(directory_of(&fs::canonicalize(file).ok()?)));
        let read: Vec<_> = named.iter().cloned().chain(linked).collect();
        let ports: Vec<_> = self.http_addresses().iter().map(SocketAddr::port).collect();
        let files = match sys::confine_files(&read, &state, &ports) {
            Ok(Enforced::Fully) => Some("files, connections and signals (Landlock)"),
            Ok(Enforced::Partially) => Some("files (Landlock, only partially supported by this kernel)"),
            Ok(Enforced::Not) => {
                tracing::warn!("files are not confined: this kernel has no Landlock");
                None
            }
            Err(error) => {
                tracing::warn!("files are not confined: {error}");
                None
            }
        };
        self.readable = files.map(|_| named);
        let calls =
            sys::deny_calls().inspect_err(|error| tracing::warn!("system calls are not confined: {error}"));
        let calls = calls.ok().map(|()| "system calls (seccomp)");
        let confined: Vec<_> = files.into_iter().chain(calls).collect();
        if !confined.is_empty() {
            tracing::info!("sandbox restricts {}", confined.join(", "));
        }
    }
}

/// Returns the user that a process of root switches to if it is told none.
fn default_user(exists: impl Fn(&str) -> bool) -> Result<UserName, ServerError> {
    let user = DEFAULT_USERS.into_iter().find(|user| exists(user)).ok_or(ServerError::Root)?;
    Ok(UserName { user: user.to_owned(), group: None })
}

fn find(name: &UserName) -> Result<User, ServerError> {
    User::find(&name.user, name.group.as_deref()).map_err(|source| failed(name, source))
}

fn failed(name: &UserName, source: io::Error) -> ServerError {
    ServerError::User { name: name.to_string(), source }
}

fn directory_of(file: &Path) -> PathBuf {
    let absolute = absolute(file).unwrap_or_default();
    absolute.parent().unwrap_or(&absolute).to_owned()
}

/// Replaces a permission error of a list outside of the readable directories with one that explains the sandbox.
pub(super) fn explain(error: ServerError, readable: Option<&[PathBuf]>) -> ServerError {
    match (error, readable) {
        (ServerError::List { path, source: ListError::Io(source) }, Some(readable))
            if source.kind() == io::ErrorKind::PermissionDenied
                && !readable.iter().any(|directory| directory_of(&path).starts_with(directory)) =>
        {
            ServerError::OutOfReach(path)
        }
        (error, _) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_switches_to_the_first_default_user_that_exists() {
        let chosen = |existing: &[&str]| default_user(|name| existing.contains(&name));
        assert_eq!(chosen(&["root", "nobody", "gyre"]).unwrap().to_string(), "gyre");
        assert_eq!(chosen(&["root", "nobody"]).unwrap().to_string(), "nobody");
        assert!(matches!(chosen(&["root"]), Err(ServerError::Root)));
    }
}
