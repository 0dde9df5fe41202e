//! Owns the tests of the programs, run as processes of their own.

#[path = "../support/mod.rs"]
mod support;

mod doctor;
mod examples;
mod faults;
mod operating;
mod privileges;
mod program;
mod restart;
mod top;
