//! What is made from settings, and kept as long as they are the same.

use std::sync::Arc;

/// What was made from settings, with them: as long as they are the same it is too.
pub(super) struct Reused<S, T> {
    from: S,
    made: Arc<T>,
}

impl<S: PartialEq, T> Reused<S, T> {
    /// What was made before if it was made from the same, else made now.
    pub(super) fn again<E>(
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
