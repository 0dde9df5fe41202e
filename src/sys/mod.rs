//! Owns the system calls other than those of the rings: cores, descriptors, socket options, doorbells, limits of the
//! process, the sandbox, users and capabilities.

mod cpu;
mod doorbell;
mod given;
mod process;
mod sandbox;
mod socket;
mod user;

pub use cpu::{allowed_cores, pin};
pub use doorbell::{Doorbell, Notifier};
pub use given::given_descriptors;
pub use process::{
    memory_bytes, raise_descriptor_limit, raise_locked_limit, random, resident_bytes, thread_cpu_time,
};
pub use sandbox::{Enforced, confine_files, deny_calls};
pub use socket::{
    attach_steering, bound_unsent, choose_port_late, deliver_local_address, detach_steering, kernel_drops,
    send_in_segments, set_receive_buffer,
};
pub use user::{User, drop_capabilities, forbid_new_rights, make_directory};
