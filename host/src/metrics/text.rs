//! The two text formats that Prometheus reads. They differ in what a counter's family is called: OpenMetrics 1.0 leaves the
//! `_total` to its samples, the older format has it in the name. Knows nothing of what is counted.

use std::fmt::Write as _;

/// As `Content-Type` has OpenMetrics.
pub const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// As it has the older format.
pub const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The older format of a text in OpenMetrics.
pub fn classic(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    // The help of a family comes before its type, and only that says whether it is a counter.
    let mut help = None;
    for line in open.lines() {
        if let Some(of) = line.strip_prefix("# HELP ") {
            help = of.split_once(' ');
        } else if let Some(of) = line.strip_prefix("# TYPE ") {
            let (name, kind) = of.split_once(' ').unwrap_or((of, "untyped"));
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, help)) = help.take() {
                let _ = writeln!(text, "# HELP {name}{suffix} {help}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::classic;

    #[test]
    fn counters_have_their_suffix_in_the_name_of_the_family() {
        let open = "# HELP a Requests here.\n# TYPE a counter\na_total{x=\"# HELP\"} 1\n# HELP b_seconds How long.\n\
                    # TYPE b_seconds histogram\n# UNIT b_seconds seconds\nb_seconds_sum 2.0\n# EOF\n";
        let wanted = "# HELP a_total Requests here.\n# TYPE a_total counter\na_total{x=\"# HELP\"} 1\n\
                      # HELP b_seconds How long.\n# TYPE b_seconds histogram\nb_seconds_sum 2.0\n";
        assert_eq!(classic(open), wanted);
    }
}
