//! Reused objects: made from settings, and carried over by a reload as long as the settings are equal.

use std::sync::Arc;

/// An object together with the settings that it was made from.
pub(super) struct Reused<S, T> {
    /// Settings that the object was made from.
    from: S,
    made: Arc<T>,
}

impl<S: PartialEq, T> Reused<S, T> {
    /// Takes over the object of `before` if it was made from equal settings; else makes a new one.
    pub(super) fn reuse_or_make<E>(
        before: Option<&Self>,
        from: S,
        make: impl FnOnce(&S) -> Result<Arc<T>, E>,
    ) -> Result<Self, E> {
        let made = match before.filter(|before| before.from == from) {
            Some(before) => Arc::clone(&before.made),
            None => make(&from)?,
        };
        Ok(Reused { from, made })
    }
}

impl<S, T> std::ops::Deref for Reused<S, T> {
    type Target = Arc<T>;

    fn deref(&self) -> &Arc<T> {
        &self.made
    }
}
