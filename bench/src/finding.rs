//! What a measurement has found: a table, what had to be reached, and the raw samples. Owns how that is said; must not know
//! how anything is measured.

use std::fmt::Write as _;

use serde_json::Value;

/// What one measurement has found.
pub(crate) struct Finding {
    /// The heading of its section.
    pub(crate) title: String,
    /// A table in Markdown, and what is to be said of it.
    pub(crate) table: String,
    /// What had to be reached.
    pub(crate) goals: Vec<Goal>,
    /// Everything that was measured, in its order, one object a sample.
    pub(crate) samples: Vec<Value>,
}

/// A figure that had to be reached.
pub(crate) struct Goal {
    /// Of what: "Larder, memory hit, to axum + moka, 300 bytes".
    pub(crate) what: String,
    /// What it was.
    pub(crate) reached: f64,
    /// What it had to be.
    pub(crate) bound: Bound,
    /// "", " µs", " MiB", with the space before it.
    pub(crate) unit: &'static str,
}

/// From where a figure counts as reached.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    pub(crate) fn at_least(what: impl Into<String>, reached: f64, bound: f64) -> Self {
        Self {
            what: what.into(),
            reached,
            bound: Bound::AtLeast(bound),
            unit: "",
        }
    }

    pub(crate) fn at_most(what: impl Into<String>, reached: f64, bound: f64) -> Self {
        Self {
            what: what.into(),
            reached,
            bound: Bound::AtMost(bound),
            unit: "",
        }
    }

    pub(crate) fn in_units(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    pub(crate) fn is_reached(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.reached >= bound,
            Bound::AtMost(bound) => self.reached <= bound,
        }
    }
}

impl Finding {
    /// The section in Markdown: heading, table, a line for each goal.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("\n### {}\n\n{}\n", self.title, self.table.trim_end());
        if !self.goals.is_empty() {
            text.push('\n');
        }
        for goal in &self.goals {
            let (word, bound) = match goal.bound {
                Bound::AtLeast(bound) => ("at least", bound),
                Bound::AtMost(bound) => ("at most", bound),
            };
            let (unit, what) = (goal.unit, &goal.what);
            let missed = if goal.is_reached() {
                ""
            } else {
                ", **NOT reached**"
            };
            let _ = writeln!(
                text,
                "- {what}: {:.2}{unit} (to reach: {word} {bound:.2}{unit}){missed}",
                goal.reached
            );
        }
        text
    }

    /// The samples as NDJSON, each with the title of what it belongs to.
    pub(crate) fn ndjson(&self) -> String {
        let mut text = String::new();
        for sample in &self.samples {
            let line = serde_json::json!({ "of": self.title, "sample": sample });
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

/// The middle one, the upper of two.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_that_is_missed_says_so_and_by_how_much() {
        let finding = Finding {
            title: "Bodies of 300 bytes".into(),
            table: "| a |\n|---|\n\n".into(),
            goals: vec![
                Goal::at_least("hit", 1.05, 1.1),
                Goal::at_most("policy", 1.2, 1.5).in_units(" µs"),
            ],
            samples: vec![serde_json::json!({ "round": 1 })],
        };
        assert_eq!(
            finding.markdown(),
            "\n### Bodies of 300 bytes\n\n| a |\n|---|\n\n\
             - hit: 1.05 (to reach: at least 1.10), **NOT reached**\n\
             - policy: 1.20 µs (to reach: at most 1.50 µs)\n"
        );
        assert_eq!(
            finding.ndjson(),
            "{\"of\":\"Bodies of 300 bytes\",\"sample\":{\"round\":1}}\n"
        );
    }
}
