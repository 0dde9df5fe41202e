//! gyre
pub mod connection_id;
pub mod limits;
pub mod owner;
pub mod swarm;
pub mod time;
pub mod types;
pub mod wire;
