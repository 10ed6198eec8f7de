-- What the writes of the plugin `postgres` remember between them. Run it in the database that Larder writes to, as an owner of
-- the schema; again after an update, for it changes only what is missing:
--
--   psql -d shop -v writer=larder -f install-writes.sql
--
-- `writer` is the user in the plugin's settings. PostgreSQL 13 or later. [config.order] of the sidecar uses the table
-- `larder.written`, [config.once] the table `larder.once`; without these settings nothing reads or writes them.

\set ON_ERROR_STOP on
begin;

create schema if not exists larder;

-- The last change of every row that was changed lately: an older one that comes late changes nothing. It outlives the row, or
-- a late PUT would bring back what was removed.
create table if not exists larder.written (
    route text not null,
    -- The columns of the key, as a JSON array.
    place text not null,
    sequence bigint not null,
    at timestamptz not null default now(),
    primary key (route, place)
);
create index if not exists written_at on larder.written (at);

-- The changes that were made lately, by their idempotency keys: one that comes twice is made once.
create table if not exists larder.once (
    key text primary key,
    created boolean not null,
    at timestamptz not null default now()
);
create index if not exists once_at on larder.once (at);

-- Removes what is older than these, at most 10,000 rows of each table at a time, and says how many; null: nothing. The plugin
-- does it by itself (`keep` in its settings).
create or replace function larder.prune_writes(keep_order interval, keep_once interval) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    removed bigint;
    more bigint;
begin
    -- Several writers may want it at once, and one is enough.
    if not pg_try_advisory_xact_lock(hashtextextended('larder.prune_writes', 0)) then
        return 0;
    end if;
    -- A row that is being written is left to the next time: nobody waits for anybody here.
    with old as (
        select route, place from larder.written where at < now() - keep_order order by at limit 10000 for update skip locked
    )
    delete from larder.written using old where written.route = old.route and written.place = old.place;
    get diagnostics removed = row_count;
    with old as (
        select key from larder.once where at < now() - keep_once order by at limit 10000 for update skip locked
    )
    delete from larder.once using old where once.key = old.key;
    get diagnostics more = row_count;
    return removed + more;
end
$$;

-- It runs with the rights of its owner.
revoke all on function larder.prune_writes(interval, interval) from public;

\if :{?writer}
grant usage on schema larder to :"writer";
grant select, insert, update on larder.written to :"writer";
grant select, insert on larder.once to :"writer";
grant execute on function larder.prune_writes(interval, interval) to :"writer";
\endif

commit;
