-- Notes that the rules of these tables and operations have changed. Called by declare_row_triggers and
-- watch_rows, last in their transactions: from here on, a transaction at repeatable read or serializable that
-- writes such a table waits for them.
-- Locks: row_rules (inserts, waits, by table and operation).
create or replace function conductor.row_rules_have_changed(p_relations regclass[], p_ops text[]) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
    insert into conductor.row_rules as r (relation, op, version)
    select distinct g.relation, g.op, 1 from unnest(p_relations, p_ops) as g(relation, op) order by 1, 2
        on conflict (relation, op) do update set version = r.version + 1;
$$;

-- Fails with serialization_failure if the rules are newer than the snapshot of this transaction, which would
-- not see them: the change would be lost for the listener. "on conflict do nothing" fails in this way if it
-- meets a row that the snapshot does not have. If there is a row that it does have, nothing is locked or
-- written. If there is no row (a trigger made by hand, for which nothing is declared), the insert is undone at
-- once. Called by rows_changed at repeatable read and serializable.
-- Locks: row_rules (inserts).
create or replace function conductor.see_row_rules(p_relation oid, p_op text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    insert into conductor.row_rules (relation, op, version) values (p_relation, p_op, 0) on conflict do nothing;
    if found then
        raise exception using errcode = 'CD000';
    end if;
exception when sqlstate 'CD000' then
    null;
end
$$;
