//! Owns what a program keeps with a request or a connection of its own accord: at most one value of each type.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;

/// Values by type. Takes no memory before the first.
///
/// ```
/// # use gyre_core as gyre;
/// #[derive(Debug, PartialEq)]
/// struct User(u64);
///
/// let mut data = gyre::data::Data::default();
/// assert_eq!(data.insert(User(7)), None);
/// data.get_mut::<User>().unwrap().0 += 1;
/// assert_eq!(data.get(), Some(&User(8)));
/// assert_eq!(data.remove(), Some(User(8)));
/// ```
#[derive(Debug, Default)]
pub struct Data(BTreeMap<TypeId, Box<dyn Any>>);

impl Data {
    /// Keeps a value; the one of this type that was there comes back.
    pub fn insert<T: 'static>(&mut self, value: T) -> Option<T> {
        let replaced = self.0.insert(TypeId::of::<T>(), Box::new(value))?;
        replaced.downcast().ok().map(|value| *value)
    }

    /// The value of this type.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>())?.downcast_ref()
    }

    /// The value of this type, to be changed.
    pub fn get_mut<T: 'static>(&mut self) -> Option<&mut T> {
        self.0.get_mut(&TypeId::of::<T>())?.downcast_mut()
    }

    /// Takes the value of this type out.
    pub fn remove<T: 'static>(&mut self) -> Option<T> {
        self.0.remove(&TypeId::of::<T>())?.downcast().ok().map(|value| *value)
    }
}
