-- The ISO codes of Debian's package iso-codes as tables. For psql, which reads the files.
\set ON_ERROR_STOP on
\set countries `cat /usr/share/iso-codes/json/iso_3166-1.json`
\set subdivisions `cat /usr/share/iso-codes/json/iso_3166-2.json`
\set languages `cat /usr/share/iso-codes/json/iso_639-3.json`
\set currencies `cat /usr/share/iso-codes/json/iso_4217.json`

begin;

create table countries (
    alpha_2 text primary key,
    alpha_3 text not null unique,
    number smallint not null unique,
    name text not null,
    official_name text,
    flag text
);
insert into countries
select alpha_2, alpha_3, "numeric"::smallint, name, official_name, flag
from jsonb_to_recordset(:'countries'::jsonb -> '3166-1')
    as record (alpha_2 text, alpha_3 text, "numeric" text, name text, official_name text, flag text);

create table subdivisions (
    code text primary key,
    country text not null references countries,
    name text not null,
    type text not null,
    parent text
);
create index on subdivisions (country);
insert into subdivisions
select code, split_part(code, '-', 1), name, type, parent
from jsonb_to_recordset(:'subdivisions'::jsonb -> '3166-2')
    as record (code text, name text, type text, parent text);

create table languages (
    alpha_3 text primary key,
    alpha_2 text unique,
    name text not null,
    scope text not null,
    type text not null
);
insert into languages
select alpha_3, alpha_2, name, scope, type
from jsonb_to_recordset(:'languages'::jsonb -> '639-3')
    as record (alpha_3 text, alpha_2 text, name text, scope text, type text);

create table currencies (
    alpha_3 text primary key,
    number smallint not null unique,
    name text not null
);
insert into currencies
select alpha_3, "numeric"::smallint, name
from jsonb_to_recordset(:'currencies'::jsonb -> '4217')
    as record (alpha_3 text, "numeric" text, name text);

commit;
analyze;
