//! What is made from settings, and kept as long as they are the same.

use std::sync::Arc;

/// What was made from settings, with them: as long as they are the same it is too.
pub(super) struct Made<S, T> {
    from: S,
    made: Arc<T>,
}

impl<S: PartialEq, T> Made<S, T> {
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
        Ok(Made { from, made })
    }
}

impl<S, T> std::ops::Deref for Made<S, T> {
    type Target = Arc<T>;

    fn deref(&self) -> &Arc<T> {
        &self.made
    }
}
