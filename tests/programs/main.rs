//! Owns the tests of the programs, each run in its own process.

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
