//! Owns the user data of a request or a connection: at most one value of each type.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;

/// A map from types to values. Allocates nothing until the first value is inserted.
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
    /// Inserts a value and returns the previous value of this type, if any.
    pub fn insert<T: 'static>(&mut self, value: T) -> Option<T> {
        let replaced = self.0.insert(TypeId::of::<T>(), Box::new(value))?;
        replaced.downcast().ok().map(|value| *value)
    }

    /// Returns the value of this type.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>())?.downcast_ref()
    }

    /// Returns a mutable reference to the value of this type.
    pub fn get_mut<T: 'static>(&mut self) -> Option<&mut T> {
        self.0.get_mut(&TypeId::of::<T>())?.downcast_mut()
    }

    /// Removes and returns the value of this type.
    pub fn remove<T: 'static>(&mut self) -> Option<T> {
        self.0.remove(&TypeId::of::<T>())?.downcast().ok().map(|value| *value)
    }
}
