//! What `/metrics` says: the Prometheus text format, and the names that tests rely on.

use std::collections::BTreeMap;

/// Requests on routes, by `route`.
pub const REQUESTS: &str = "larder_requests_total";
/// How they were answered, by `route`, `outcome` and `detail`. The outcomes are [`OUTCOMES`].
pub const ANSWERS: &str = "larder_answers_total";
/// Every way to answer. Over a route: requests = hits + stale + misses + bypass + failures + refused + left.
pub const OUTCOMES: [&str; 7] = [
    "hit", "stale", "miss", "bypass", "failure", "refused", "left",
];
/// Flights, by `route` and `result`: what they brought back.
pub const LOADS: &str = "larder_loads_total";
/// Requests that wait for a flight now, those that started one included.
pub const WAITING: &str = "larder_requests_waiting";
/// What was read from Redis and did not decode, echoed another key or failed its checksum (law 11).
pub const FOREIGN: &str = "larder_redis_foreign_total";
/// Headers of loaders that the host does not send.
pub const HEADERS_DROPPED: &str = "larder_loader_headers_dropped_total";
/// Times to live of loaders that were cut to `ttl_max`.
pub const TTL_CLAMPED: &str = "larder_ttl_clamped_total";

/// One reading of `/metrics`.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Vec<Sample>);

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Reads the text format: `name{label="value",…} number`, comments ignored.
    ///
    /// # Panics
    /// On a line that is not of the format.
    pub fn parse(text: &str) -> Self {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(lines.map(sample).collect())
    }

    /// The sum of a metric over all its labels; 0 when there is none.
    pub fn sum(&self, name: &str) -> f64 {
        self.sum_where(name, &[])
    }

    /// The sum of the samples of a metric that carry all of these labels.
    pub fn sum_where(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|v| v == value))
        };
        self.0.iter().filter(fits).map(|sample| sample.value).sum()
    }

    /// Whether there is a sample of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|sample| sample.name == name)
    }

    /// Every name, sorted, once.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.0.iter().map(|sample| sample.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line
        .rsplit_once(' ')
        .unwrap_or_else(|| panic!("no value in the metrics line {line:?}"));
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, label_pairs(labels.trim_end_matches('}'))),
        None => (series, BTreeMap::new()),
    };
    Sample {
        name: name.to_owned(),
        labels,
        value: value
            .parse()
            .unwrap_or_else(|_| panic!("no number in the metrics line {line:?}")),
    }
}

/// `a="1",b="x,y"`: values are quoted, with `\` before a quote or another `\`.
fn label_pairs(text: &str) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut chars = after.char_indices();
        let mut end = after.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
                other => value.push(other),
            }
        }
        pairs.insert(name.trim_start_matches(',').to_owned(), value);
        rest = &after[end..];
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn the_text_format_is_read_with_its_labels() {
        let metrics = Metrics::parse(
            "# HELP larder_hits_total Hits.\n# TYPE larder_hits_total counter\n\
             larder_hits_total{route=\"/data/{key}\",tier=\"memory\"} 3\n\
             larder_hits_total{route=\"a,\\\"b\",tier=\"redis\"} 4\n\
             larder_waiting 0\n# EOF\n",
        );
        assert_eq!(metrics.sum("larder_hits_total"), 7.0);
        assert_eq!(
            metrics.sum_where("larder_hits_total", &[("route", "/data/{key}")]),
            3.0
        );
        assert_eq!(
            metrics.sum_where("larder_hits_total", &[("route", "a,\"b")]),
            4.0
        );
        assert!(metrics.has("larder_waiting") && !metrics.has("larder_wait"));
        assert_eq!(metrics.names(), ["larder_hits_total", "larder_waiting"]);
    }
}
