//! Owns the invariants of a shard.

use std::collections::HashSet;

use super::super::peers::Set;
use super::super::*;

impl Shard {
    /// Panics if the table is inconsistent. Takes time proportional to the size of the table.
    pub(crate) fn assert_invariants(&self) {
        let Totals { completed, refused, .. } = self.totals;
        let mut totals = Totals { completed, refused, ..Totals::default() };
        let (mut marks, mut counted) = ([0; 256], 0);
        let mut next = self.swarms.map().taken_below(u32::MAX);
        while let Some(number) = next {
            let swarm = self.swarms.get(number);
            assert_eq!(self.find(self.index.hash(&swarm.info_hash), &swarm.info_hash), Some(number));
            let counts = self.counts(number);
            totals.seeders += u64::from(counts.seeders);
            totals.leechers += u64::from(counts.leechers);
            match counts.seeders + counts.leechers {
                0 => totals.empty_swarms += 1,
                _ => totals.swarms += 1,
            }
            totals.v6_peers += self.assert_swarm(swarm, &mut marks);
            counted += 1;
            next = self.swarms.map().taken_below(number);
        }
        assert_eq!(self.totals(), totals);
        assert_eq!((counted, self.index.len()), (self.swarms.map().len(), self.swarms.map().len()));
        for (mark, count) in marks.iter().enumerate() {
            assert_eq!(self.books.census.count(mark as u8), *count, "peers with mark {mark}");
        }
        self.assert_memory();
    }

    /// Checks a swarm. Returns the number of its IPv6 peers.
    fn assert_swarm(&self, swarm: &Swarm, marks: &mut [u32; 256]) -> u64 {
        match &swarm.body {
            Body::Few(few) => {
                let peers = few.unpack();
                assert!(!peers.is_empty() || swarm.downloaded > 0, "an empty swarm without downloads");
                let distinct: HashSet<_> = peers.iter().map(|peer| peer.addr).collect();
                assert_eq!(distinct.len(), peers.len(), "an address twice in a record");
                peers.iter().for_each(|peer| marks[usize::from(peer.mark)] += 1);
                peers.iter().filter(|peer| peer.addr.family() == Family::V6).count() as u64
            }
            Body::Sets(sets) => {
                self.v4.assert_sets(&sets.v4, &self.books.ticks, marks);
                self.v6.assert_sets(&sets.v6, &self.books.ticks, marks)
            }
        }
    }

    fn assert_memory(&self) {
        let (swarms, v4, v6) = (self.swarms.bytes(), self.v4.bytes(), self.v6.bytes());
        let index = self.index.bytes();
        let (used, allocated) = (swarms.0 + v4.0 + v6.0 + index, swarms.1 + v4.1 + v6.1 + index);
        assert_eq!((self.memory().used, self.memory().allocated), (used, allocated));
    }
}

impl<const N: usize> Peers<N> {
    fn assert_sets(&self, sets: &[Set; 2], ticks: &Ticks, marks: &mut [u32; 256]) -> u64 {
        let mut seen = HashSet::new();
        for set in sets {
            let mut len = 0;
            let view = set.view(&self.directories);
            assert_eq!((view.mask, view.peers), (linear::mask(self.buckets(set)), self.len(set)));
            for number in 0..self.buckets(set) {
                let bucket = self.bucket(set, number);
                self.blocks.assert_pool(&bucket);
                assert!(bucket.len() <= usize::from(view.longest));
                for at in 0..bucket.len() {
                    let peer = self.blocks.peer(&bucket, at);
                    assert!(seen.insert(peer.addr), "an address twice in a swarm");
                    assert_eq!(
                        self.find(set, self.hash(&peer.addr), &peer.addr),
                        Some(Place { bucket: number, at: at as u8 })
                    );
                    assert!(
                        ticks.age(bucket.oldest) >= ticks.age(peer.mark),
                        "a mark is older than the bucket's oldest"
                    );
                    marks[usize::from(peer.mark)] += 1;
                    len += 1;
                }
            }
            assert_eq!(self.len(set), len);
        }
        seen.len() as u64
    }

    /// Returns the bytes used and allocated.
    fn bytes(&self) -> (usize, usize) {
        let mut tables = 0;
        let mut next = self.directories.map().taken_below(u32::MAX);
        while let Some(number) = next {
            tables += self.directories.get(number).buckets.capacity() * size_of::<bucket::Bucket>();
            next = self.directories.map().taken_below(number);
        }
        let (blocks, directories) = (self.blocks.bytes(), self.directories.bytes());
        (blocks.0 + directories.0 + tables, blocks.1 + directories.1 + tables)
    }
}
