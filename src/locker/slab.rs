//! Numbered places for what waits: a number is used again, its generation never.

use std::ops::{Index, IndexMut};

/// Values under small numbers.
#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<(u32, Option<T>)>,
    vacant: Vec<u32>,
    generation: u32,
    len: usize,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Slab<T> {
        Slab { places: Vec::new(), vacant: Vec::new(), generation: 0, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, value: T) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.len += 1;
        if let Some(number) = self.vacant.pop() {
            self.places[number as usize] = (self.generation, Some(value));
            return number;
        }
        self.places.push((self.generation, Some(value)));
        u32::try_from(self.places.len() - 1).expect("4 billion waiters do not fit in memory")
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let value = self.places.get_mut(number as usize)?.1.take()?;
        self.len -= 1;
        if self.len == 0 {
            self.places = Vec::new();
            self.vacant = Vec::new();
        } else {
            self.vacant.push(number);
        }
        Some(value)
    }

    /// Lifts a value out of its place, which stays its own until `put_back`.
    pub(super) fn lift(&mut self, number: u32) -> T {
        self.places[number as usize].1.take().expect("a number that is kept is in use")
    }

    pub(super) fn put_back(&mut self, number: u32, value: T) {
        self.places[number as usize].1 = Some(value);
    }

    pub(super) fn get(&self, number: u32) -> Option<&T> {
        self.places.get(number as usize)?.1.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.places.get_mut(number as usize)?.1.as_mut()
    }

    /// The generation under which the number is in use.
    pub(super) fn generation(&self, number: u32) -> Option<u32> {
        let (generation, value) = self.places.get(number as usize)?;
        value.is_some().then_some(*generation)
    }

    /// The numbers in use among so many; and whether there are numbers behind them.
    pub(super) fn some(&self, from: u32, count: u32) -> (Vec<u32>, bool) {
        let last = u32::try_from(self.places.len()).expect("each number is a u32");
        let end = from.saturating_add(count).min(last);
        ((from..end).filter(|number| self.get(*number).is_some()).collect(), end < last)
    }

    /// The numbers in use.
    pub(super) fn numbers(&self) -> Vec<u32> {
        (0u32..).zip(&self.places).filter(|(_, place)| place.1.is_some()).map(|(number, _)| number).collect()
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        self.places[number as usize].1.as_ref().expect("a number that is kept is in use")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        self.places[number as usize].1.as_mut().expect("a number that is kept is in use")
    }
}
