//! The formats: where each record of a file begins and ends, and what its key is. Must not know what becomes of that.

use actson::feeder::BufReaderJsonFeeder;
use actson::options::JsonParserOptionsBuilder;
use actson::{JsonEvent, JsonParser};
use serde::Deserialize;
use std::io::{BufRead as _, BufReader, Read};

/// How many bytes are scanned in a slice: some milliseconds of computing.
pub(crate) const SLICE: usize = 256 << 10;

/// The settings of the plugin: where records are, and how they are told apart.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layout {
    pub(crate) path: String,
    pub(crate) format: Format,
    #[serde(default)]
    pub(crate) pointer: String,
    pub(crate) key: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    Json,
    Ndjson,
    Csv,
}

impl Format {
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
        }
    }
}

/// The names of the fields of a CSV file; none of another.
pub(crate) type Header = csv::StringRecord;

/// What a scan has come by besides the records.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    pub(crate) header: Header,
    /// Of a JSON file: where its array of records ends.
    pub(crate) end: Option<ArrayEnd>,
}

/// The end of the array of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ArrayEnd {
    /// Where its `]` is.
    pub(crate) at: u64,
    /// How many elements it has, records and others.
    pub(crate) elements: usize,
}

/// Calls `found` with the key of each record of `file`, which has so many bytes, and the bytes it is `from` and `to`, in
/// order. A record without the key field is passed over. Waits for `breathe` between slices.
///
/// # Errors
/// What is wrong with the file, and where.
pub(crate) async fn records(
    file: impl Read,
    length: u64,
    layout: &Layout,
    found: &mut impl FnMut(&str, u64, u64),
    breathe: &impl AsyncFn(),
) -> Result<Scanned, String> {
    let capacity = usize::try_from(length).map_or(SLICE, |length| length.clamp(1, SLICE));
    let mut reader = BufReader::with_capacity(capacity, file);
    if layout.format == Format::Ndjson && length <= capacity as u64 {
        // No lines are none too, as when the last record was removed; to the parser something would be missing.
        let start = reader.fill_buf().map_err(|fault| fault.to_string())?;
        if start.trim_ascii().is_empty() {
            return Ok(Scanned::default());
        }
    }
    if layout.format == Format::Csv {
        let header = csv_records(reader, layout, found, breathe).await?;
        return Ok(Scanned { header, end: None });
    }
    // Values one after another are what NDJSON is to the parser; of one JSON text, they are a fault.
    let options = JsonParserOptionsBuilder::default()
        .with_streaming(layout.format == Format::Ndjson)
        .build();
    let mut parser = JsonParser::new_with_options(BufReaderJsonFeeder::new(reader), options);
    let mut walk = Walk::new(layout);
    let at_fault = |fault: String, at: usize| format!("{fault}, at byte {at}");
    let mut slice_ends = SLICE;
    loop {
        let event = parser
            .next_event()
            .map_err(|fault| at_fault(fault.to_string(), parser.parsed_bytes()))?;
        match event {
            None => break,
            Some(JsonEvent::NeedMoreInput) => {
                parser
                    .feeder
                    .fill_buf()
                    .map_err(|fault| fault.to_string())?;
                if parser.parsed_bytes() >= slice_ends {
                    breathe().await;
                    slice_ends = parser.parsed_bytes() + SLICE;
                }
            }
            Some(event) => {
                let at = parser.parsed_bytes();
                let text = parser
                    .current_str()
                    .map_err(|fault| at_fault(fault.to_string(), at))?;
                walk.step(event, text, at as u64, found);
            }
        }
    }
    if walk.found_array {
        Ok(Scanned {
            header: Header::new(),
            end: walk.end,
        })
    } else {
        Err(format!(
            "there is no array of records at `pointer`, {:?} (\"\" is the whole file)",
            layout.pointer
        ))
    }
}

/// A walk through JSON, event by event, that knows where it is.
struct Walk<'l> {
    key: &'l str,
    pointer: Vec<String>,
    /// The containers it is in, outermost first, each with the name (or number) of the member it is at.
    path: Vec<Member>,
    /// How many of them the records are in, while it is among records.
    records_depth: Option<usize>,
    found_array: bool,
    /// Where the array of records ended.
    end: Option<ArrayEnd>,
    /// The record it is in: where that begins, and its key once that has been seen.
    record: Option<(u64, Option<String>)>,
    /// The value that comes next is the key.
    at_key: bool,
}

enum Member {
    /// Names are only noted as deep as the pointer goes.
    Name(String),
    /// How many came before it.
    Number(usize),
}

impl<'l> Walk<'l> {
    fn new(layout: &'l Layout) -> Self {
        // RFC 6901: `/` separates, `~1` is `/` and `~0` is `~`.
        let tokens = layout
            .pointer
            .split('/')
            .skip(1)
            .map(|token| token.replace("~1", "/").replace("~0", "~"));
        let over_lines = layout.format == Format::Ndjson;
        Self {
            key: &layout.key,
            pointer: tokens.collect(),
            path: Vec::new(),
            records_depth: over_lines.then_some(0),
            found_array: over_lines,
            end: None,
            record: None,
            at_key: false,
        }
    }

    fn step(
        &mut self,
        event: JsonEvent,
        text: &str,
        at: u64,
        found: &mut impl FnMut(&str, u64, u64),
    ) {
        let depth = self.path.len();
        let in_record = self
            .records_depth
            .is_some_and(|records| depth == records + 1);
        match event {
            JsonEvent::NeedMoreInput => {}
            JsonEvent::FieldName => {
                self.at_key = in_record && text == self.key;
                if let Some(Member::Name(name)) =
                    self.path.last_mut().filter(|_| depth <= self.pointer.len())
                {
                    text.clone_into(name);
                }
            }
            JsonEvent::StartObject | JsonEvent::StartArray => {
                self.at_key = false;
                if event == JsonEvent::StartArray {
                    if self.records_depth.is_none() && self.is_at_pointer() {
                        self.records_depth = Some(depth + 1);
                        self.found_array = true;
                    }
                    self.path.push(Member::Number(0));
                } else {
                    if self.records_depth == Some(depth) {
                        self.record = Some((at - 1, None));
                    }
                    self.path.push(Member::Name(String::new()));
                }
            }
            JsonEvent::EndObject | JsonEvent::EndArray => {
                let left = self.path.pop();
                let depth = depth - 1;
                if self.records_depth == Some(depth) {
                    if let Some((from, Some(key))) = self.record.take() {
                        found(&key, from, at);
                    }
                } else if self.records_depth == Some(depth + 1) && event == JsonEvent::EndArray {
                    self.records_depth = None;
                    if let Some(Member::Number(elements)) = left {
                        let at = at - 1;
                        self.end = Some(ArrayEnd { at, elements });
                    }
                }
                self.past_value();
            }
            JsonEvent::ValueString | JsonEvent::ValueInt | JsonEvent::ValueFloat => {
                if let Some((_, key)) = self.record.as_mut().filter(|_| self.at_key) {
                    *key = Some(text.to_owned());
                }
                self.past_value();
            }
            JsonEvent::ValueTrue | JsonEvent::ValueFalse | JsonEvent::ValueNull => {
                self.past_value();
            }
        }
    }

    fn past_value(&mut self) {
        self.at_key = false;
        if let Some(Member::Number(number)) = self.path.last_mut() {
            *number += 1;
        }
    }

    fn is_at_pointer(&self) -> bool {
        self.path.len() == self.pointer.len()
            && self
                .path
                .iter()
                .zip(&self.pointer)
                .all(|(member, token)| match member {
                    Member::Name(name) => name == token,
                    Member::Number(number) => number.to_string() == *token,
                })
    }
}

async fn csv_records(
    reader: BufReader<impl Read>,
    layout: &Layout,
    found: &mut impl FnMut(&str, u64, u64),
    breathe: &impl AsyncFn(),
) -> Result<Header, String> {
    let mut reader = csv::Reader::from_reader(reader);
    let header = reader.headers().map_err(|fault| fault.to_string())?.clone();
    let key = header
        .iter()
        .position(|name| name == layout.key)
        .ok_or_else(|| format!("it has no column `{}` (`key` in [config])", layout.key))?;
    let mut record = csv::StringRecord::new();
    let mut slice_ends = SLICE as u64;
    loop {
        let from = reader.position().byte();
        if !reader
            .read_record(&mut record)
            .map_err(|fault| fault.to_string())?
        {
            return Ok(header);
        }
        let to = reader.position().byte();
        found(&record[key], from, to);
        if to > slice_ends {
            breathe().await;
            slice_ends = to + SLICE as u64;
        }
    }
}

/// Whether a record has this key, by the same reading that found it. Waits for `breathe` between slices.
///
/// # Errors
/// What is wrong with the record.
pub(crate) async fn is_of(
    record: &[u8],
    key: &str,
    layout: &Layout,
    header: &Header,
    breathe: &impl AsyncFn(),
) -> Result<bool, String> {
    if layout.format == Format::Csv {
        let column = header.iter().position(|name| name == layout.key);
        let values = csv_values(record)?;
        return Ok(column.and_then(|column| values.get(column)) == Some(key));
    }
    // A record of a JSON file alone is what a line of NDJSON is.
    let line = Layout {
        format: Format::Ndjson,
        pointer: String::new(),
        ..layout.clone()
    };
    let mut same = false;
    let mut found = |is: &str, _, _| same = is == key;
    records(record, record.len() as u64, &line, &mut found, breathe).await?;
    Ok(same)
}

/// The JSON of a record: itself, or, of a CSV file, an object of strings.
///
/// # Errors
/// What is wrong with the record.
pub(crate) fn to_json(record: Vec<u8>, format: Format, header: &Header) -> Result<Vec<u8>, String> {
    if format != Format::Csv {
        return Ok(record);
    }
    let values = csv_values(&record)?;
    let object: serde_json::Map<_, _> = header
        .iter()
        .map(str::to_owned)
        .zip(values.iter().map(Into::into))
        .collect();
    serde_json::to_vec(&object).map_err(|fault| fault.to_string())
}

fn csv_values(record: &[u8]) -> Result<csv::StringRecord, String> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(record);
    let first = reader.records().next().transpose();
    Ok(first
        .map_err(|fault| fault.to_string())?
        .unwrap_or_default())
}
