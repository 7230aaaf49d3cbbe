//! Mutants: deliberate faults of the core that a test switches on, to prove that some test sees each.
//!
//! A site reads `mutant!(right, "name of the fault", faulty)`, or `mutant!("name of the fault",
//! faulty)` where the right thing is to do nothing. Outside tests it is what is right, and the
//! fault is not compiled. Each name belongs to one row of a table of mutants, which tests keep
//! complete.

/// The first expression, or the second one while a test has switched this fault on.
#[cfg(not(test))]
macro_rules! mutant {
    ($right:expr, $fault:literal, $faulty:expr) => {
        $right
    };
    ($fault:literal, $faulty:expr) => {};
}

#[cfg(test)]
macro_rules! mutant {
    ($right:expr, $fault:literal, $faulty:expr) => {
        if $crate::mutant::testing::is_on($fault) { $faulty } else { $right }
    };
    ($fault:literal, $faulty:expr) => {
        if $crate::mutant::testing::is_on($fault) {
            $faulty;
        }
    };
}

#[cfg(test)]
pub(crate) mod testing {
    //! The switch, and the table of mutants with the test that kills each.

    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    thread_local! {
        /// The fault that is on in this thread.
        static ON: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// True if a fault is on in this thread.
    pub(crate) fn is_on(fault: &str) -> bool {
        ON.get().is_some_and(|on| on == fault)
    }

    /// True if any fault is on in this thread.
    pub(crate) fn is_any_on() -> bool {
        ON.get().is_some()
    }

    /// Switches the fault that is on here on in the thread that does this work, too.
    pub(crate) fn carry<R>(work: impl FnOnce() -> R) -> impl FnOnce() -> R {
        let fault = ON.get();
        move || {
            switch(fault);
            work()
        }
    }

    /// Switches a fault on in this thread, or all off.
    fn switch(fault: Option<&'static str>) {
        ON.set(fault);
    }

    /// A test that kills mutants: it panics in one of its first cases if a fault is on.
    #[derive(Clone, Copy)]
    pub(crate) struct MutantKiller {
        /// Name of the test or world.
        pub(crate) name: &'static str,
        /// Number of cases.
        pub(crate) cases: u64,
        /// Runs the case of a number.
        pub(crate) run: fn(u64),
    }

    /// A fault, and the test that sees it.
    pub(crate) type MutantRow = (&'static str, MutantKiller);

    /// The first case that panics with a fault on, and its message.
    fn first_failure(fault: Option<&'static str>, killer: MutantKiller) -> Option<(u64, String)> {
        (0..killer.cases).find_map(|case| {
            switch(fault);
            let result = catch_unwind(AssertUnwindSafe(|| (killer.run)(case)));
            switch(None);
            let panic = result.err()?;
            let text = panic.downcast_ref::<String>().cloned();
            Some((
                case,
                text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default(),
            ))
        })
    }

    /// Asserts that each test passes without a fault, and fails with each of its faults on. Prints
    /// what killed each.
    pub(crate) fn assert_all_killed(table: &[MutantRow]) {
        let killers: BTreeMap<&str, MutantKiller> = table.iter().map(|(_, killer)| (killer.name, *killer)).collect();
        for killer in killers.values() {
            let failure = first_failure(None, *killer);
            assert!(failure.is_none(), "{} fails without a fault: {failure:?}", killer.name);
        }
        let mut survivors = Vec::new();
        for (fault, killer) in table {
            match first_failure(Some(fault), *killer) {
                Some((case, text)) => println!(
                    "{fault}: killed by {}, case {case}: {}",
                    killer.name,
                    text.lines().next().unwrap_or_default()
                ),
                None => survivors.push(format!("{fault}: survives {} cases of {}", killer.cases, killer.name)),
            }
        }
        assert!(survivors.is_empty(), "killed by nothing:\n{}", survivors.join("\n"));
    }
}
