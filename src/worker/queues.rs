//! Owns queues of numbers. A number is in one queue or in none. Finding the first, leaving and going to the end cost a
//! few stores each.

/// The neighbours of a number, or the two ends of a queue: each queue is a ring that is closed by its own link.
#[derive(Clone, Copy, Debug)]
struct Link {
    before: u32,
    after: u32,
}

/// `QUEUES` queues.
#[derive(Debug)]
pub(super) struct Queues<const QUEUES: usize> {
    /// One for each queue, then one for each number. A number in no queue is linked to itself.
    links: Vec<Link>,
}

impl<const QUEUES: usize> Queues<QUEUES> {
    pub(super) fn new() -> Self {
        let mut queues = Self { links: Vec::new() };
        queues.make_links(QUEUES);
        queues
    }

    /// Moves a number to the end of a queue, from the one that it is in, if any.
    pub(super) fn put_last(&mut self, queue: usize, number: usize) {
        let at = QUEUES + number;
        if at >= self.links.len() {
            self.make_links(at + 1);
        }
        self.leave(number);
        let last = std::mem::replace(&mut self.links[queue].before, at as u32);
        self.links[last as usize].after = at as u32;
        self.links[at] = Link { before: last, after: queue as u32 };
    }

    /// Removes a number from the queue that it is in, if any.
    pub(super) fn leave(&mut self, number: usize) {
        let at = QUEUES + number;
        let Some(&Link { before, after }) = self.links.get(at) else { return }; // it has never been in one
        self.links[before as usize].after = after;
        self.links[after as usize].before = before;
        self.links[at] = Link { before: at as u32, after: at as u32 };
    }

    /// Returns the first number of a queue.
    pub(super) fn first(&self, queue: usize) -> Option<usize> {
        (self.links[queue].after as usize).checked_sub(QUEUES)
    }

    fn make_links(&mut self, count: usize) {
        let alone = |at: usize| Link { before: at as u32, after: at as u32 };
        self.links.extend((self.links.len()..count).map(alone));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Compares with lists that are searched.
    #[test]
    fn the_number_that_came_first_is_first() {
        let mut random = fastrand::Rng::with_seed(1);
        let (mut queues, mut naive) = (Queues::<2>::new(), [const { VecDeque::new() }; 2]);
        for _ in 0..10_000 {
            let number = random.usize(..20);
            naive.iter_mut().for_each(|queue| queue.retain(|queued| *queued != number));
            match random.usize(..3) {
                2 => queues.leave(number),
                queue => {
                    queues.put_last(queue, number);
                    naive[queue].push_back(number);
                }
            }
            for (queue, naive) in naive.iter().enumerate() {
                assert_eq!(queues.first(queue), naive.front().copied());
            }
        }
    }
}
