-- Returns a UUIDv7 (RFC 9562): milliseconds, then the fraction of the millisecond, then random bits.
create or replace function conductor.uuid7() returns uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_micros bigint := floor(extract(epoch from clock_timestamp()) * 1000000)::bigint;
    v_fraction integer := ((v_micros % 1000) * 4096 / 1000)::integer;
    v_bytes bytea := uuid_send(gen_random_uuid());
begin
    v_bytes := overlay(v_bytes placing substring(int8send(v_micros / 1000) from 3) from 1 for 6);
    v_bytes := set_byte(v_bytes, 6, 112 | (v_fraction >> 8));
    v_bytes := set_byte(v_bytes, 7, v_fraction & 255);
    return encode(v_bytes, 'hex')::uuid;
end
$$;

-- Returns the id of the nth change of a statement: a UUIDv7 as uuid7 makes it, 1/4096 ms later than the one
-- before. All changes of a statement have the same random end. Called by take_changes.
create or replace function conductor.change_id(p_ticks bigint, p_n bigint, p_end text) returns uuid
language sql immutable parallel safe
return (lpad(to_hex((((p_ticks + p_n) >> 12) << 16) | 28672 | ((p_ticks + p_n) & 4095)), 16, '0') || p_end)::uuid;
