-- The outbox that the change feed of the plugin `postgres` reads. Run it in the database that Larder reads, as the owner of
-- what is to be watched; again after an update, for it changes only what is missing:
--
--   psql -d shop -v reader=larder -f install.sql
--
-- `reader` is the user in the plugin's settings: it may read the outbox and remove what is old, and nothing else. PostgreSQL 13
-- or later. Then say for each table what depends on its rows:
--
--   create trigger larder after insert or update or delete on countries for each row
--     execute function larder.changed('/countries/{alpha_2}', 'tag:region:{region}');
--   create trigger larder_truncate after truncate on countries for each statement
--     execute function larder.changed();
--
-- Each argument is the pattern of a route or `tag:` and a tag. {name} is the column of that name, {name=column} the column of
-- another; where it is null, that argument says nothing. An update says what was and what is. A truncate, and a trigger
-- without arguments, say that everything changed. What no row says, say by hand: select larder.announce('tag:prices', '{}');

\set ON_ERROR_STOP on
begin;

create schema if not exists larder;

-- What changed, in the order of transactions. A reader takes what lies below the oldest transaction that still runs for
-- settled: nothing can appear there any more, whatever the order of the commits. A row is a resource (route and params), a
-- tag, or, with neither, everything.
create table if not exists larder.outbox (
    xid xid8 not null default pg_current_xact_id(),
    id bigint generated always as identity,
    at timestamptz not null default now(),
    route text,
    params jsonb,
    tag text,
    primary key (xid, id)
);

-- Which outbox this is, and up to where old rows were removed: who is behind that has lost track.
create table if not exists larder.feed (
    only_one boolean primary key default true check (only_one),
    id uuid not null default gen_random_uuid(),
    pruned_xid xid8 not null default '0',
    pruned_id bigint not null default 0
);
insert into larder.feed default values on conflict do nothing;

-- Puts one change into the outbox: `target` is what a trigger's argument is, `of` the row that its names are taken from.
create or replace function larder.announce(target text, of jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    place record;
    filled text := target;
    pattern text := target;
    params jsonb := '{}';
begin
    for place in
        select hit[1] as whole, hit[2] as star, hit[3] as name, coalesce(hit[4], hit[3]) as "column"
        from regexp_matches(target, '(\{(\*?)([A-Za-z0-9_.:-]+)(?:=([^{}]+))?\})', 'g') as hit
    loop
        if not of ? place.column then
            raise exception 'larder: % names the column %, and the row has none', target, place.column
                using hint = 'Name a column of the table, as {name=column} where it is called otherwise.';
        end if;
        if of -> place.column = 'null' then
            return;
        end if;
        filled := replace(filled, place.whole, of ->> place.column);
        pattern := replace(pattern, place.whole, '{' || place.star || place.name || '}');
        params := params || jsonb_build_object(place.name, of ->> place.column);
    end loop;
    if target like 'tag:%' then
        insert into larder.outbox (tag) values (substr(filled, 5));
    elsif target like '/%' then
        insert into larder.outbox (route, params) values (pattern, params);
    else
        raise exception 'larder: % is neither a route, which begins with /, nor tag: and a tag', target;
    end if;
    -- The outbox is the truth; this only wakes who reads it. Within a transaction it is sent once.
    perform pg_notify('larder', '');
end
$$;

-- The trigger.
create or replace function larder.changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    target text;
    was jsonb;
    is_now jsonb;
begin
    if tg_nargs = 0 or tg_op = 'TRUNCATE' then
        insert into larder.outbox default values;
        perform pg_notify('larder', '');
        return null;
    end if;
    if tg_op <> 'INSERT' then
        was := to_jsonb(old);
    end if;
    if tg_op <> 'DELETE' then
        is_now := to_jsonb(new);
    end if;
    foreach target in array tg_argv loop
        if was is not null then
            perform larder.announce(target, was);
        end if;
        if is_now is not null and is_now is distinct from was then
            perform larder.announce(target, is_now);
        end if;
    end loop;
    return null;
end
$$;

-- Removes what is older than `keep`, at most 10,000 rows at a time, and says how many. The change feed does it by itself
-- (`keep` in its settings); a reader that was away for longer than that drops everything and starts anew.
create or replace function larder.prune(keep interval) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    removed bigint;
begin
    -- Several readers may want it at once, and one is enough.
    if not pg_try_advisory_xact_lock(hashtextextended('larder.prune', 0)) then
        return 0;
    end if;
    with old as (
        select xid, id from larder.outbox
        where at < now() - keep and xid < pg_snapshot_xmin(pg_current_snapshot())
        order by xid, id limit 10000
    ), gone as (
        delete from larder.outbox using old
        where outbox.xid = old.xid and outbox.id = old.id
        returning outbox.xid, outbox.id
    ), last as (
        select xid, id from gone order by xid desc, id desc limit 1
    ), told as (
        update larder.feed set pruned_xid = last.xid, pruned_id = last.id from last
        where (feed.pruned_xid, feed.pruned_id) < (last.xid, last.id)
    )
    select count(*) into removed from gone;
    return removed;
end
$$;

-- They run with the rights of their owner.
revoke all on function larder.announce(text, jsonb), larder.changed(), larder.prune(interval) from public;

\if :{?reader}
grant usage on schema larder to :"reader";
grant select on larder.outbox, larder.feed to :"reader";
grant execute on function larder.prune(interval) to :"reader";
\endif

commit;
