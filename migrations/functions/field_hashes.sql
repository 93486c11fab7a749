-- Returns a number for the value of a field. Equal values have equal numbers. The number is never 0.
create or replace function conductor.field_hash(p_path text[], p_value jsonb) returns bigint
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(nullif(hashtextextended(p_path::text, jsonb_hash_extended(p_value, 0)), 0), 1);
end
$$;

-- Returns a field and the number of its value without which a filter lets no event through, or nulls if there
-- is none. If there are several, chooses the one that seems to tell most events apart: an id, a number, a short
-- text, a flag, in this order.
create or replace function conductor.filter_field(p_filter jsonb, out path text[], out hash bigint)
language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    select c.path, c.hash into path, hash from (
        with recursive conditions as (
            select p_filter as c
            union all
            select o.c from conditions a
             cross join lateral jsonb_array_elements(
                   case when a.c->>'op' = 'and' and jsonb_typeof(a.c->'of') = 'array' then a.c->'of' else '[]' end)
                   as o(c)
        )
        select f.path, conductor.field_hash(f.path, f.value) as hash
          from (select array(select jsonb_array_elements_text(e.c->'path')) as path, e.c->'value' as value
                  from conditions e
                 where e.c->>'op' = 'eq' and e.c->'as' is null and jsonb_typeof(e.c->'path') = 'array'
                   and jsonb_typeof(e.c->'value') in ('string', 'number', 'boolean')) f
         where cardinality(f.path) <= 8
           -- A number in a path may lead into an array, which field_hashes does not enter.
           and not exists (select from unnest(f.path) as n where n ~ '^\s*[-+]?\d+$')
         order by case jsonb_typeof(f.value) when 'boolean' then 3 when 'number' then 1
                       else case when length(f.value #>> '{}') < 16 then 2 else 0 end end,
                  f.path
         limit 1) c;
end
$$;

-- Returns the number that filter_field finds, or 0 if there is none.
create or replace function conductor.filter_hash(p_filter jsonb) returns bigint
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce((conductor.filter_field(p_filter)).hash, 0);
end
$$;

-- Returns the numbers of an event's values in the fields that waits of its name have asked for. Called by
-- prune_events.
create or replace function conductor.noted_hashes(p_name text, p_payload jsonb) returns setof bigint
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select distinct conductor.field_hash(p.path, p_payload #> p.path) from conductor.event_paths p
     where p.name = p_name and jsonb_typeof(p_payload #> p.path) in ('string', 'number', 'boolean')
$$;

-- Returns the numbers by which an event finds the waits that it may end: 0 for waits without a number, and one
-- for each text, number and flag in its payload. Called by find_waits.
create or replace function conductor.field_hashes(p_payload jsonb) returns bigint[]
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        with recursive fields as (
            select '{}'::text[] as path, p_payload as value
            union all
            select f.path || e.key, e.value from fields f
             cross join lateral jsonb_each(
                   case when jsonb_typeof(f.value) = 'object' and cardinality(f.path) < 8 then f.value else '{}' end) e
        )
        select 0
        union
        select conductor.field_hash(f.path, f.value) from fields f
         where jsonb_typeof(f.value) in ('string', 'number', 'boolean'));
end
$$;

-- Returns a number for a name and a filter. The record of a wait has it, so that the next wait with the same
-- name and filter does not look at what came before.
create or replace function conductor.filter_number(p_name text, p_filter jsonb) returns bigint
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    return hashtextextended(coalesce(p_filter::text, ''), hashtextextended(p_name, 0));
end
$$;
