//! Owns what the kernel is asked to keep the process from: files by Landlock, system calls by seccomp.
//!
//! **Landlock** is what counts. It is asked wherever the kernel opens a file or connects, so it holds for what goes
//! through io_uring as well, which seccomp never sees. Files can be read below the directories that are named, `/proc`
//! and `/sys`, and changed below those that are named for it; nothing can be run. TCP can be bound and connected at the
//! ports that are named, as whoever looks after the tracker's own does (from Linux 6.7), and signals and abstract Unix
//! sockets don't leave the process (6.12). It holds for the thread that asks for it and for those that it starts.
//!
//! **seccomp** takes away calls that a tracker never makes: what they would be good for is to leave the process
//! (programs, tracing), to change the machine (mounts, modules, clocks), or to attack the kernel through rarely used
//! code. Calls are named and denied; all others are allowed. The opposite, a list of what is allowed, would depend on
//! the C library, the allocator, the runtime and their next versions, and would fail on an operator's machine first,
//! for little: the calls that matter most in it, those on files and sockets, can be made by io_uring instead. A call
//! that is denied fails with `EPERM`, so that a mistake in the list is no crash. It holds for all threads.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// The newest of Landlock's abilities that are asked for, as far as the kernel has them.
const LANDLOCK: ABI = ABI::V6;

/// How much of it the kernel can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// All.
    Fully,
    /// What it knows of it; it is too old for the rest.
    Partially,
    /// Nothing: it is not built with Landlock, or Landlock is off.
    Not,
}

/// Shuts all files but those below these directories and below `/proc` and `/sys`, and TCP but at these ports, for this
/// thread and those that it starts. A directory that isn't there is left out.
///
/// # Errors
///
/// The kernel has Landlock and refuses to use it.
pub fn confine_files(read: &[PathBuf], write: &[PathBuf], ports: &[u16]) -> io::Result<Enforced> {
    let failed = |error: RulesetError| io::Error::other(error.to_string());
    let to_read = AccessFs::ReadFile | AccessFs::ReadDir;
    let to_write = AccessFs::from_all(LANDLOCK) & !BitFlags::from(AccessFs::Execute);
    let always = ["/proc", "/sys"].map(PathBuf::from);
    let below = |paths: &[PathBuf], access: BitFlags<AccessFs>| -> Vec<Result<_, RulesetError>> {
        let opened = paths.iter().filter_map(|path| PathFd::new(path).ok());
        opened.map(|directory| Ok(PathBeneath::new(directory, access))).collect()
    };
    let tcp = AccessNet::from_all(LANDLOCK);
    let at = ports.iter().map(|&port| Ok::<_, RulesetError>(NetPort::new(port, tcp)));
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|rules| rules.handle_access(tcp))
        .and_then(|rules| rules.scope(Scope::from_all(LANDLOCK)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(below(&always, to_read)))
        .and_then(|rules| rules.add_rules(below(read, to_read)))
        .and_then(|rules| rules.add_rules(below(write, to_write)))
        .and_then(|rules| rules.add_rules(at));
    let status = ruleset.and_then(landlock::RulesetCreated::restrict_self).map_err(failed)?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Enforced::Fully,
        RulesetStatus::PartiallyEnforced => Enforced::Partially,
        RulesetStatus::NotEnforced => Enforced::Not,
    })
}

/// Calls that a tracker never makes.
const DENIED: &[i64] = &[
    // Other programs and processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_personality,
    // Other users.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    // Other views of the machine.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    // The machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    // Rarely used parts of the kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
];

/// On x86-64 every call has a second number if the kernel is built for the x32 ABI, with this bit; some have a third.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// Takes from all threads, for good, the calls that a tracker never makes.
///
/// # Errors
///
/// The kernel has no seccomp, or a thread has a filter that others don't have.
pub fn deny_calls() -> io::Result<()> {
    let failed = |error: &dyn std::error::Error| io::Error::other(error.to_string());
    let calls = DENIED.iter().copied();
    #[cfg(target_arch = "x86_64")]
    let calls = calls.chain(DENIED.iter().map(|call| call | X32)).chain((512..=547).map(|call| call | X32));
    let rules: BTreeMap<_, _> = calls.map(|call| (call, Vec::new())).collect();
    let (others, these) = (SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32));
    let architecture = std::env::consts::ARCH.try_into().map_err(|error| failed(&error))?;
    let filter = SeccompFilter::new(rules, others, these, architecture).map_err(|error| failed(&error))?;
    let program: BpfProgram = filter.try_into().map_err(|error: seccompiler::BackendError| failed(&error))?;
    seccompiler::apply_filter_all_threads(&program).map_err(|error| failed(&error))
}
