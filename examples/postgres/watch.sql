-- What depends on which rows: see plugins/postgres/install.sql, which comes first.
create trigger larder after insert or update or delete on countries for each row
    execute function larder.changed('/countries/{alpha_2}', 'tag:countries');
create trigger larder_truncate after truncate on countries for each statement
    execute function larder.changed();

create trigger larder after insert or update or delete on subdivisions for each row
    execute function larder.changed('/subdivisions/{code}', '/countries/{alpha_2=country}/subdivisions');
create trigger larder_truncate after truncate on subdivisions for each statement
    execute function larder.changed();
