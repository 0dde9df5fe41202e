//! Owns the sandbox of the process: files by Landlock, system calls by seccomp.
//!
//! **Landlock** is the main protection. The kernel checks it wherever it opens a file or connects, so it also covers
//! io_uring, which seccomp never sees. Files can be read below the given directories, `/proc` and `/sys`, and changed
//! below the given writable ones. No program can be executed. TCP can be bound and connected only at the given ports
//! (from Linux 6.7), because the doctor connects to the tracker's own. Signals and abstract Unix sockets can't reach
//! other processes (6.12). The rules apply to the calling thread and to threads that it starts.
//!
//! **seccomp** denies calls that a tracker never makes. They would serve only to leave the process (programs, tracing),
//! to change the machine (mounts, modules, clocks), or to attack rarely used kernel code. The list names what is
//! denied; all other calls are allowed. A list of allowed calls would depend on the C library, the allocator, the
//! runtime and their future versions, and would fail on an operator's machine first. The gain would be small, since the
//! most important calls on it, those on files and sockets, can be made through io_uring instead. A denied call fails
//! with `EPERM`, so a mistake in the list does not crash the process. The filter applies to all threads.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// The newest version of Landlock that is requested. An older kernel enforces what it supports.
const LANDLOCK: ABI = ABI::V6;

/// How much of the requested Landlock rules the kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// All of them.
    Fully,
    /// Some of them; the kernel is too old for the rest.
    Partially,
    /// None of them: the kernel has no Landlock, or it is turned off.
    Not,
}

/// Denies all files except those below the given directories, `/proc` and `/sys`, and TCP except at the given ports,
/// for this thread and the threads that it starts. Missing directories are skipped.
///
/// # Errors
///
/// The kernel has Landlock but rejects the rules.
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
    // Programs and other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_personality,
    // Users and capabilities.
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
    // File systems and namespaces.
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
    // Settings of the machine.
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

/// On x86-64 a kernel with the x32 ABI has a second number for each call, with this bit, and for some a third one.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// Denies the calls that a tracker never makes, permanently and for all threads.
///
/// # Errors
///
/// The kernel has no seccomp, or the threads have different filters already.
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
