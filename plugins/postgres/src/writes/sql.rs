//! The one statement that makes all changes of a route that came together. Pure; must not know what a connection is.
//!
//! # Why it is right
//!
//! It runs in a transaction of its own that is REPEATABLE READ, so everything in it sees the rows as they were at one moment,
//! and whatever it would change that another has changed since fails it (SQLSTATE 40001), to be run again. So what was looked at,
//! whether the row is there and which change was the last, still holds when it is committed. For instance, of two at once:
//!
//! ```text
//! A: PUT, sequence 5: the row and its place in larder.written, not committed yet
//! B: DELETE, sequence 6: sees neither the row nor the place; waits for the place
//! A: commits
//! B: fails with 40001 and begins anew, sees both, and removes the row
//! ```
//!
//! READ COMMITTED would let B go on and remove nothing, for its look at the table was before A's commit. Without
//! larder.written B removes nothing either way, which is what a DELETE does that came before the PUT.

use std::fmt::Write as _;

use super::settings::{Column, Key, Write, is_bytes};
use crate::sql::identifier;

/// Which of the side tables of `install-writes.sql` are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sides {
    pub(crate) order: bool,
    pub(crate) once: bool,
}

/// The statement of a route: `$1` is a JSON array of changes (see `row`), and it answers, for each, its number, what became of
/// it (`again`, `late`, `present`, `absent` or `done`) and whether it made the row.
pub(crate) fn change(write: &Write, sides: Sides) -> String {
    let keys = |of: &str| list(&write.key, |at, _| format!("{of}.k{at}"));
    let same_row = conjunction(&write.key, |at, key| {
        format!(
            "larder_table.{} = larder_one.k{at}",
            identifier(&key.column)
        )
    });
    let route = literal(&write.route);
    let place = format!("jsonb_build_array({})::text", keys("larder_one"));
    let (mut joins, mut cases) = (String::new(), String::new());
    if sides.once {
        joins.push_str(" left join larder.once larder_once on larder_once.key = larder_one.o");
        cases.push_str(" when larder_once.key is not null then 'again'");
    }
    if sides.order {
        let _ = write!(
            joins,
            " left join lateral (select larder_w.sequence from larder.written larder_w where larder_w.route = {route} and larder_w.place = {place} limit 1) larder_written on true"
        );
        cases.push_str(" when larder_written.sequence >= larder_one.s then 'late'");
    }
    let was_created = if sides.once {
        "coalesce(larder_once.created, not larder_there.it and larder_one.p)"
    } else {
        "not larder_there.it and larder_one.p"
    };
    // In one order for all: who needs the same rows waits, and does not deadlock.
    let mut sql = format!(
        "with larder_judged as materialized (
    select larder_one.*, {place} as place, {was_created} as created, case{cases}
        when larder_one.e = 'absent' and larder_there.it then 'present'
        when larder_one.e = 'present' and not larder_there.it then 'absent'
        else 'done' end as verdict
    from jsonb_to_recordset($1::jsonb) as larder_one ({record})
    left join lateral (select true as it from {table} larder_table where {same_row} limit 1) larder_found on true
    cross join lateral (select larder_found.it is not null as it) larder_there{joins}
    order by place
), larder_put as (
    {put}
)",
        record = record(write),
        table = write.table,
        put = put(write),
    );
    if write.delete {
        let _ = write!(
            sql,
            ", larder_delete as (
    delete from {} larder_table using larder_judged larder_one
    where larder_one.verdict = 'done' and not larder_one.p and {same_row}
)",
            write.table
        );
    }
    if sides.order {
        let _ = write!(
            sql,
            ", larder_order as (
    insert into larder.written as larder_written (route, place, sequence)
    select {route}, place, s from larder_judged where verdict = 'done'
    on conflict (route, place) do update set sequence = excluded.sequence, at = now()
)"
        );
    }
    if sides.once {
        sql.push_str(
            ", larder_note as (
    insert into larder.once (key, created)
    select o, created and verdict = 'done' from larder_judged where verdict in ('done', 'late')
)",
        );
    }
    sql.push_str(
        "\nselect n, verdict, created and verdict in ('done', 'again') from larder_judged",
    );
    sql
}

fn put(write: &Write) -> String {
    let names = write
        .key
        .iter()
        .map(|key| &key.column)
        .chain(write.columns.iter().map(|column| &column.column));
    let names: Vec<String> = names.map(|name| identifier(name)).collect();
    let mut values: Vec<String> = (0..write.key.len()).map(|at| format!("k{at}")).collect();
    values.extend(write.columns.iter().enumerate().map(|(at, column)| {
        if is_bytes(&column.type_name) {
            format!("decode(c{at}, 'base64')")
        } else {
            format!("c{at}")
        }
    }));
    let update = if write.columns.is_empty() {
        "nothing".to_owned()
    } else {
        let set = list(&write.columns, |_, column| {
            let name = identifier(&column.column);
            format!("{name} = excluded.{name}")
        });
        format!("update set {set}")
    };
    format!(
        "insert into {} ({}) select {} from larder_judged where verdict = 'done' and p order by place
    on conflict ({}) do {update}",
        write.table,
        names.join(", "),
        values.join(", "),
        list(&write.key, |_, key| identifier(&key.column)),
    )
}

/// The columns that the JSON of a change is read as.
fn record(write: &Write) -> String {
    let mut record = "n int, s bigint, p boolean, e text, o text".to_owned();
    for (at, Key { type_name, .. }) in write.key.iter().enumerate() {
        let _ = write!(record, ", k{at} {type_name}");
    }
    for (at, Column { type_name, .. }) in write.columns.iter().enumerate() {
        let read_as = if is_bytes(type_name) {
            "text"
        } else {
            type_name
        };
        let _ = write!(record, ", c{at} {read_as}");
    }
    record
}

/// Reads one value as a type, as [`change`] does: whose it is that does not fit.
pub(crate) fn reading(type_name: &str) -> String {
    let (read_as, read) = if is_bytes(type_name) {
        ("text", "decode(v, 'base64')")
    } else {
        (type_name, "v")
    };
    format!("select {read} is null from jsonb_to_recordset($1::jsonb) as larder_one (v {read_as})")
}

fn list<T>(of: &[T], item: impl Fn(usize, &T) -> String) -> String {
    joined(of, item, ", ")
}

fn conjunction<T>(of: &[T], item: impl Fn(usize, &T) -> String) -> String {
    joined(of, item, " and ")
}

fn joined<T>(of: &[T], item: impl Fn(usize, &T) -> String, between: &str) -> String {
    let items: Vec<String> = of
        .iter()
        .enumerate()
        .map(|(at, one)| item(at, one))
        .collect();
    items.join(between)
}

/// Of the pattern of a route alone, which the operator wrote.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
