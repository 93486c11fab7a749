-- Reading stored JSON.
--
-- Stored JSON has the type json, which accepts what its own functions then fail to read: U+0000 and halves of
-- surrogate pairs as \u escapes, escapes of characters that the database's encoding does not have, numbers
-- beyond numeric, thousands of levels. One such row must not fail a statement over many rows. So columns are
-- only read by the functions below. Short values without escapes are read in the plan of the caller, into which
-- these functions are inlined (hence their form); all others in a block that catches errors.
--
-- Returns whether a value is short and has no escapes.
create or replace function conductor.is_plain(p_json json) returns boolean
language sql stable parallel safe
return pg_column_size(p_json) < 2000 and pg_column_compression(p_json) is null and strpos(p_json::text, E'\\u') = 0;

-- Returns why Postgres cannot read a value, in its own words, or null if it can.
create or replace function conductor.json_fault(p_json json) returns text
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    v_detail text;
begin
    perform p_json #>> '{}';
    perform p_json::jsonb;
    return null;
exception when data_exception or program_limit_exceeded or feature_not_supported then
    get stacked diagnostics v_detail = pg_exception_detail;
    return sqlerrm || coalesce(': ' || nullif(v_detail, ''), '');
end
$$;

-- Returns a value as jsonb, or null if Postgres cannot read it. Called by as_jsonb.
create or replace function conductor.careful_jsonb(p_json json) returns jsonb
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    return p_json::jsonb;
exception when data_exception or program_limit_exceeded or feature_not_supported then
    return null;
end
$$;

-- Returns a value as jsonb, as filters read it, or null if they cannot.
create or replace function conductor.as_jsonb(p_json json) returns jsonb
language sql stable parallel safe
return case when conductor.is_plain(p_json) and p_json::text !~ '[eE][-+]?[0-9]{5}' then p_json::jsonb
            else conductor.careful_jsonb(p_json) end;

-- Returns the key of executions whose payload cannot be read. They share a lane, and the worker fails them.
create or replace function conductor.unreadable_key() returns text
language sql immutable parallel safe
return chr(1) || 'unreadable';

-- Returns the text at a path of a value, or unreadable_key if Postgres cannot read the value. Called by
-- lane_key.
create or replace function conductor.careful_key(p_json json, p_path text[]) returns text
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    -- Also if there is no path, because this shows whether the payload can be read.
    perform p_json #>> '{}';
    return p_json #>> p_path;
exception when data_exception or program_limit_exceeded or feature_not_supported then
    return conductor.unreadable_key();
end
$$;

-- Returns the key of a limit in a payload.
create or replace function conductor.lane_key(p_json json, p_path text[]) returns text
language sql stable parallel safe
return case when conductor.is_plain(p_json) then p_json #>> p_path else conductor.careful_key(p_json, p_path) end;

-- Returns a key as it is stored: the text "null" if there is none, its MD5 if it has more than 200 bytes.
create or replace function conductor.short_key(p_key text) returns text
language sql immutable parallel safe
return case when p_key is null then 'null' when octet_length(p_key) > 200 then md5(p_key) else p_key end;

-- Returns the key by which the executions of a task are ordered, or null if they are not. p_path is the task's
-- ordered_by. Called by each statement that makes an execution, and inlined into it.
create or replace function conductor.order_key(p_path text[], p_payload json) returns text
language sql stable parallel safe
return case when p_path is not null then conductor.short_key(conductor.lane_key(p_payload, p_path)) end;

-- Returns a field of a record, even if Postgres cannot read the record. The fields that Conductor adds come
-- before the user's data. Called by json_field.
create or replace function conductor.careful_field(p_record json, p_name text) returns text
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    v_found text[];
begin
    return p_record ->> p_name;
exception when data_exception or program_limit_exceeded or feature_not_supported then
    v_found := regexp_match(left(p_record::text, 1000),
        '^\{(?:"\w+"\s*:\s*(?:"[^"\\]*"|-?\d+|null)\s*,\s*)*"' || p_name || '"\s*:\s*(?:"([^"\\]*)"|(-?\d+))');
    return coalesce(v_found[1], v_found[2]);
end
$$;

-- Returns a field of the record of a step (the outcome of a child, an event), whatever the record also has.
create or replace function conductor.json_field(p_record json, p_name text) returns text
language sql stable parallel safe
return case when conductor.is_plain(p_record) then p_record ->> p_name
            else conductor.careful_field(p_record, p_name) end;

-- Returns a text as an id, or null if it is not one.
create or replace function conductor.as_uuid(p_text text) returns uuid
language sql immutable parallel safe
return case when p_text ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then p_text::uuid end;

-- Returns a time that clients can hold: those in Rust know the years 1 to 9999.
create or replace function conductor.shown(p_at timestamptz) returns timestamptz
language sql immutable parallel safe
return case when p_at > '9999-12-31 23:59:59.999999+00'::timestamptz then '9999-12-31 23:59:59.999999+00'::timestamptz
            when p_at < '0001-01-01 00:00:00+00'::timestamptz then '0001-01-01 00:00:00+00'::timestamptz
            else p_at end;
