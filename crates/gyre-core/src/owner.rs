//! Owns the rule that maps a swarm to the worker that owns it. It has two forms: a function for the workers, and a
//! classic BPF program (for `SO_ATTACH_REUSEPORT_CBPF`) by which the kernel delivers a datagram to the owner's socket.
//!
//! The rule is a keyed mix of the first four bytes of the info-hash, modulo the number of workers. The key is random
//! for each process, so that an attacker can't choose hashes that all fall on one core. Four bytes are enough: four
//! billion values spread over 256 workers to within one in ten million.

use crate::limits::MAX_WORKERS;
use crate::types::{InfoHash, WorkerId};

/// Maps swarms to the workers that own them.
#[derive(Clone, Copy, Debug)]
pub struct Owners {
    workers: u32,
    key: [u32; 3],
}

impl Owners {
    /// Creates the rule for `workers` workers with a random key.
    ///
    /// # Panics
    ///
    /// If `workers` is 0 or exceeds [`MAX_WORKERS`].
    pub fn new(workers: usize, key: [u32; 3]) -> Self {
        assert!((1..=MAX_WORKERS).contains(&workers), "1 to {MAX_WORKERS} workers, not {workers}");
        Self { workers: workers as u32, key: [key[0], key[1] | 1, key[2] | 1] } // an odd factor loses no bit
    }

    /// Returns the key. It is secret: it tells the owner of every swarm.
    pub fn key(&self) -> [u32; 3] {
        self.key
    }

    /// Returns the number of workers.
    pub fn workers(&self) -> usize {
        self.workers as usize
    }

    /// Returns the worker that owns the swarm.
    #[inline]
    pub fn of(&self, info_hash: &InfoHash) -> WorkerId {
        let [whiten, first, second] = self.key;
        let mut mix = (info_hash.head() ^ whiten).wrapping_mul(first);
        mix ^= mix >> 16;
        mix = mix.wrapping_mul(second);
        mix ^= mix >> 15;
        WorkerId((mix % self.workers) as u16)
    }

    /// Returns the rule as a BPF program. Announces and scrapes go to the owner of their (first) info-hash. All other
    /// datagrams go to the worker on the core that received them (`cores[i]` is the core of worker `i`).
    pub fn steer_by_info_hash(&self, cores: &[usize]) -> Vec<Instruction> {
        let [whiten, first, second] = self.key;
        let by_hash = [
            Instruction::new(LOAD_WORD, INFO_HASH_OFFSET),
            Instruction::new(XOR_CONSTANT, whiten),
            Instruction::new(MULTIPLY_CONSTANT, first),
            Instruction::new(COPY_TO_X, 0),
            Instruction::new(SHIFT_RIGHT_CONSTANT, 16),
            Instruction::new(XOR_X, 0),
            Instruction::new(MULTIPLY_CONSTANT, second),
            Instruction::new(COPY_TO_X, 0),
            Instruction::new(SHIFT_RIGHT_CONSTANT, 15),
            Instruction::new(XOR_X, 0),
            Instruction::new(MODULO_CONSTANT, self.workers),
            Instruction::new(RETURN_ACCUMULATOR, 0),
        ];
        let past_hash = by_hash.len() as u8;
        let mut program = vec![
            // Checks the length first: a load beyond the end would end the program with worker 0.
            Instruction::new(LOAD_LENGTH, 0),
            Instruction { jump_false: past_hash + 3, ..Instruction::new(JUMP_GREATER_EQUAL, INFO_HASH_END) },
            Instruction::new(LOAD_WORD, ACTION_OFFSET),
            Instruction { jump_true: 1, ..Instruction::new(JUMP_EQUAL, ACTION_ANNOUNCE) },
            Instruction { jump_false: past_hash, ..Instruction::new(JUMP_EQUAL, ACTION_SCRAPE) },
        ];
        program.extend(by_hash);
        program.extend(self.steer_by_cpu(cores));
        program
    }

    /// Returns a BPF program that gives each datagram to the worker on the core that received it. If that core has no
    /// worker, the core's number modulo the number of workers selects one.
    pub fn steer_by_cpu(&self, cores: &[usize]) -> Vec<Instruction> {
        assert_eq!(cores.len(), self.workers(), "one core for each worker");
        let mut program = vec![Instruction::new(LOAD_WORD, CPU_OFFSET)];
        for (worker, &core) in cores.iter().enumerate() {
            program.push(Instruction { jump_false: 1, ..Instruction::new(JUMP_EQUAL, core as u32) });
            program.push(Instruction::new(RETURN_CONSTANT, worker as u32));
        }
        program.push(Instruction::new(MODULO_CONSTANT, self.workers));
        program.push(Instruction::new(RETURN_ACCUMULATOR, 0));
        program
    }
}

// Offsets of the action and the (first) info-hash in a BEP 15 request.
const ACTION_OFFSET: u32 = 8;
const INFO_HASH_OFFSET: u32 = 16;
const INFO_HASH_END: u32 = INFO_HASH_OFFSET + 20;
const ACTION_ANNOUNCE: u32 = 1;
const ACTION_SCRAPE: u32 = 2;

/// `SKF_AD_OFF + SKF_AD_CPU`: a load from here yields the number of the current core (linux/filter.h).
const CPU_OFFSET: u32 = (-0x1000_i32 + 36) as u32;

/// One instruction of a classic BPF program, as `struct sock_filter` lays it out (linux/filter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Instruction class, with size and mode or operation and source.
    pub code: u16,
    /// Instructions to skip if the condition is true.
    pub jump_true: u8,
    /// Instructions to skip if the condition is false.
    pub jump_false: u8,
    /// The operand.
    pub operand: u32,
}

impl Instruction {
    const fn new(code: u16, operand: u32) -> Self {
        Self { code, jump_true: 0, jump_false: 0, operand }
    }
}

// Instruction codes (linux/bpf_common.h): class | size or operation | mode or source.
const LOAD_WORD: u16 = 0x20; // LD | W | ABS
const LOAD_LENGTH: u16 = 0x80; // LD | W | LEN
const MULTIPLY_CONSTANT: u16 = 0x24; // ALU | MUL | K
const SHIFT_RIGHT_CONSTANT: u16 = 0x74; // ALU | RSH | K
const MODULO_CONSTANT: u16 = 0x94; // ALU | MOD | K
const XOR_CONSTANT: u16 = 0xa4; // ALU | XOR | K
const XOR_X: u16 = 0xac; // ALU | XOR | X
const JUMP_EQUAL: u16 = 0x15; // JMP | JEQ | K
const JUMP_GREATER_EQUAL: u16 = 0x35; // JMP | JGE | K
const RETURN_CONSTANT: u16 = 0x06; // RET | K
const RETURN_ACCUMULATOR: u16 = 0x16; // RET | A
const COPY_TO_X: u16 = 0x07; // MISC | TAX

/// Maximum program length of the kernel (`BPF_MAXINSNS`). The steering program compares each core separately.
const KERNEL_PROGRAM_MAX: usize = 4096;
const _: () = assert!(17 + 1 + 2 * MAX_WORKERS + 2 <= KERNEL_PROGRAM_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Interprets a program as the kernel does. Tests with real sockets compare the kernel itself.
    fn run(program: &[Instruction], datagram: &[u8], cpu: u32) -> u32 {
        let (mut a, mut x, mut at) = (0_u32, 0_u32, 0);
        loop {
            let Instruction { code, jump_true, jump_false, operand } = program[at];
            at += 1;
            let branch = |taken: bool| usize::from(if taken { jump_true } else { jump_false });
            match code {
                LOAD_WORD if operand == CPU_OFFSET => a = cpu,
                LOAD_WORD => match datagram.get(operand as usize..operand as usize + 4) {
                    Some(word) => a = u32::from_be_bytes(word.try_into().unwrap()),
                    None => return 0,
                },
                LOAD_LENGTH => a = datagram.len() as u32,
                MULTIPLY_CONSTANT => a = a.wrapping_mul(operand),
                SHIFT_RIGHT_CONSTANT => a >>= operand,
                MODULO_CONSTANT => a %= operand,
                XOR_CONSTANT => a ^= operand,
                XOR_X => a ^= x,
                COPY_TO_X => x = a,
                JUMP_EQUAL => at += branch(a == operand),
                JUMP_GREATER_EQUAL => at += branch(a >= operand),
                RETURN_CONSTANT => return operand,
                RETURN_ACCUMULATOR => return a,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    proptest! {
        #[test]
        fn the_program_and_the_function_agree(
            key: [u32; 3], workers in 1..=MAX_WORKERS, hash: [u8; 20], action in 0..4_u32, cpu in 0..512_u32,
            length in 0..120_usize,
        ) {
            let owners = Owners::new(workers, key);
            let cores: Vec<usize> = (0..workers).map(|worker| worker * 2).collect();
            let mut datagram = vec![0; 120];
            datagram[8..12].copy_from_slice(&action.to_be_bytes());
            datagram[16..36].copy_from_slice(&hash);
            datagram.truncate(length);
            let by_cpu = cores.iter().position(|&core| core == cpu as usize).unwrap_or(cpu as usize % workers);
            let expected = match action {
                1 | 2 if length >= 36 => owners.of(&InfoHash(hash)).index(),
                _ => by_cpu,
            };
            prop_assert_eq!(run(&owners.steer_by_info_hash(&cores), &datagram, cpu) as usize, expected);
            prop_assert_eq!(run(&owners.steer_by_cpu(&cores), &datagram, cpu) as usize, by_cpu);
        }
    }

    #[test]
    fn swarms_spread_evenly_under_any_key() {
        let mut rng = fastrand::Rng::with_seed(7);
        for workers in [2, 3, 7, 16, 64] {
            let owners = Owners::new(workers, [rng.u32(..), rng.u32(..), rng.u32(..)]);
            let mut owned = vec![0_u32; workers];
            let per_worker = 10_000;
            for counter in 0..(per_worker * workers) as u32 {
                let mut hash = InfoHash([0; 20]); // consecutive heads are the hardest to spread
                hash.0[..4].copy_from_slice(&counter.to_be_bytes());
                owned[owners.of(&hash).index()] += 1;
            }
            for count in owned {
                let share = f64::from(count) / per_worker as f64;
                assert!((0.9..1.1).contains(&share), "{workers} workers: one has {share} of an even share");
            }
        }
    }
}
